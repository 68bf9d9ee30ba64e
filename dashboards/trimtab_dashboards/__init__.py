"""What Grafana is given: dashboards and alert rules, made from the catalog, and the client that takes them there."""
