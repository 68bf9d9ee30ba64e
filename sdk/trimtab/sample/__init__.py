"""Turns tensors into numbers, and numbers into events. The only room that reads a tensor's value.

scalars     single values: at once on the CPU, one transfer for many on a device
gradients   mean, variance, norm and largest magnitude of gradients
updates     how far a step moved each layer
spacing     how often statistics are taken, within the overhead budget
ledger      the steps of one optimizer, folded into records
passes      sums over an epoch and over a validation pass
sampler     the one object that takes what capture says and publishes events
"""
