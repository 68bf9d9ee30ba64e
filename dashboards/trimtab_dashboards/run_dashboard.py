"""The dashboard *Run*: one run, whose first row answers what a person on call asks."""

from __future__ import annotations

from trimtab import catalog
from trimtab_dashboards.dashboard import Dashboard, Row
from trimtab_dashboards.panels import ANSWERED, BLUE, GREEN, GREY, ORANGE, RED, Column, Panel, Query, lines, stat, table
from trimtab_dashboards.promql import ASKED, EACH_PROCESS, of_run, or_zero, rate, since_answer

STATUS_COLORS = {"running": GREEN, "completed": BLUE, "halted": ORANGE, "interrupted": ORANGE, "failed": RED}
ALIVE = {0.0: ("over", GREY), 1.0: ("alive", GREEN), 2.0: ("hung", RED)}


def dashboard() -> Dashboard:
    return Dashboard(
        uid="trimtab-run",
        description="One training run: how it stands, what it learns, and what was done about it.",
        rows=[
            Row(title="How it stands", panels=[*_standing(), *_steering()]),
            Row(title="What it learns", panels=_learning()),
            Row(title="Gradients, as the optimizer used them", panels=_gradients()),
            Row(title="Speed", panels=_speed()),
            Row(title="Rules and adjustments", panels=_rules()),
        ],
    )


def _standing() -> list[Panel]:
    position = of_run(catalog.EPOCH_POSITION)
    idle = f"time() - {of_run(catalog.LAST_ACTIVITY)} > bool {EACH_PROCESS} {of_run(catalog.HUNG_AFTER)}"
    running = of_run(catalog.RUN_STATUS, status="running")
    asked = f"max({of_run(catalog.ALERT_SOURCE_LAST_SUCCESS, source=ASKED)})"
    to_go = f"(ceil({position}) - {position}) / (deriv({position}[$__rate_interval]) > 0)"
    return [
        stat(
            "Alive or hung",
            "Hung is a run that has said nothing for longer than trimtab_hung_after_seconds. Over is one that ended.",
            Query(f"max({running} * {EACH_PROCESS} (1 + ({idle})) or {running})", "state"),
            states=ALIVE,
            empty="not scraped",
            width=3,
        ),
        stat(
            "Status",
            "The state that the run itself reports. Several are shown if ranks disagree.",
            Query(f"max by (status) ({of_run(catalog.RUN_STATUS)}) == 1", "{{status}}"),
            show="name",
            names=STATUS_COLORS,
            empty="not scraped",
            width=3,
        ),
        stat(
            "Who may adjust it",
            "dry_run: nobody, adjustments are only shown. process: the run's own rules. alerts: alerts that come back.",
            Query(f"max by (mode) ({of_run(catalog.ACT_MODE)}) == 1", "{{mode}}"),
            show="name",
            names={"dry_run": BLUE, "process": ORANGE, "alerts": ORANGE, "all": ORANGE},
            width=3,
        ),
        stat(
            "Alert path",
            "Whether the alert that always fires does so in Prometheus. Without it no other alert would come either; "
            "load deploy/prometheus/trimtab-paging.rules.yml.",
            Query(or_zero(f'max(ALERTS{{alertname="{catalog.ALERT_PATH}", alertstate="firing"}})'), "rules"),
            states={0.0: ("no rules", ORANGE), 1.0: ("alive", GREEN)},
            width=3,
        ),
        stat(
            "Alerts last asked for",
            "Time since the last answer of the server that the run asks for alerts.",
            Query(since_answer(asked), "heard"),
            unit="s",
            states=ANSWERED,
            width=3,
        ),
        stat(
            "Epochs gone through",
            "Epochs completed, plus the share of the current one if the loader knows its length. How many there will "
            "be, only the training code knows.",
            Query(f"max({position})", "epochs"),
            decimals=2,
            empty="unknown",
            width=3,
        ),
        stat(
            "Time to go in this epoch",
            "Until the loader is exhausted, at the pace of the last minutes. Without validation.",
            Query(f"max(({to_go}) or (ceil({position}) - {position} == 0))", "to go"),
            unit="s",
            empty="unknown",
            width=3,
        ),
        stat(
            "Owner and job",
            "Who started it, and the scheduler's job, where there is one.",
            Query(f"max by (owner, exported_job) ({of_run(catalog.RUN_INFO)})", "{{owner}} {{exported_job}}"),
            show="name",
            names={},
            width=3,
        ),
    ]


def _steering() -> list[Panel]:
    labels = "run, rank, policy, action, outcome, optimizer"
    same, each = f"on ({labels})", f"max by ({labels}, setting)"  # without their names, so that Grafana joins them
    last = f"topk(1, {of_run(catalog.LAST_ADJUSTMENT)})"
    before, after = of_run(catalog.ADJUSTMENT_BEFORE), of_run(catalog.ADJUSTMENT_AFTER)
    return [
        table(
            "Last adjustment",
            "The last adjustment, with the settings before and after. In a dry run: what would have been changed. "
            "Empty until there is one.",
            ("policy", "action", "outcome", "setting"),
            # Anything to the power of 0 is 1, NaN and infinity as well.
            Column("when", f"{each} (1000 * {last} * {same} group_right () {after} ^ 0)", unit="dateTimeFromNow"),
            Column("before", f"{each} ({before} and {same} {last})"),
            Column("after", f"{each} ({after} and {same} {last})"),
            width=12,
            height=4,
        ),
        stat(
            "Learning-rate scale",
            "Factor on the schedule's learning rate, set by policies or a person; 1 is the schedule itself.",
            Query(f"min({of_run(catalog.LEARNING_RATE_SCALE)})", "scale"),
            bounds=[(None, ORANGE), (1, GREEN), (1.001, ORANGE)],
            decimals=3,
        ),
        stat(
            "Budget left",
            "Adjustments left to the policy that has the fewest. At 0 it only reports.",
            Query(f"bottomk(1, min by (policy) ({of_run(catalog.POLICY_BUDGET)}))", "{{policy}}"),
            show="value_and_name",
            bounds=[(None, RED), (1, GREEN)],
        ),
        stat(
            "Snapshot age",
            "Age of the newest healthy snapshot that a rollback could use.",
            Query(f"min({of_run(catalog.SNAPSHOT_AGE)})", "age"),
            unit="s",
            empty="none",
        ),
    ]


def _learning() -> list[Panel]:
    return [
        lines(
            "Loss",
            "Training: mean of the last record, and its moving average over 50 steps. Validation: mean over the last "
            "pass. The mean over ranks; NaN is shown as a gap. At chance: the "
            "loss of the best answer that is the same for every input; a model that stays there has learned nothing.",
            Query(f"avg by (optimizer) ({of_run(catalog.LOSS, phase='train')})", "train, optimizer {{optimizer}}"),
            Query(f"avg by (optimizer) ({of_run(catalog.LOSS_EMA)})", "smoothed, optimizer {{optimizer}}"),
            Query(f"avg({of_run(catalog.LOSS, phase='validation')})", "validation"),
            Query(f"avg by (optimizer) ({of_run(catalog.LOSS_AT_CHANCE)})", "at chance, optimizer {{optimizer}}"),
            width=12,
            height=9,
        ),
        lines(
            "Accuracy",
            "Share of correct predictions, where the loss function is about classes.",
            Query(f"avg by (phase) ({of_run(catalog.ACCURACY)})", "{{phase}}"),
            unit="percentunit",
            width=12,
            height=9,
        ),
        lines(
            "Learning rate",
            "What the last step used: the schedule's, times the scale.",
            Query(
                f"max by (optimizer, group) ({of_run(catalog.LEARNING_RATE)})",
                "optimizer {{optimizer}}, group {{group}}",
            ),
            unit="sci",
            width=6,
        ),
        lines(
            "Learning-rate scale over time",
            "Factor on the schedule's learning rate, set by policies or a person; 1 is the schedule itself.",
            Query(
                f"min by (optimizer, group) ({of_run(catalog.LEARNING_RATE_SCALE)})",
                "optimizer {{optimizer}}, group {{group}}",
            ),
            least=0,
            width=6,
        ),
        lines(
            "Weight decay",
            "What the last step used.",
            Query(
                f"max by (optimizer, group) ({of_run(catalog.WEIGHT_DECAY)})",
                "optimizer {{optimizer}}, group {{group}}",
            ),
            unit="sci",
            width=6,
        ),
        lines(
            "Dropout",
            "The largest ratio of any dropout module. None is shown where the model has none.",
            Query(f"max({of_run(catalog.DROPOUT)})", "largest"),
            least=0,
            width=6,
        ),
        lines(
            "Logged values",
            "What the training code gave to trimtab.log, or the framework logged.",
            Query(f"avg by (name, phase) ({of_run(catalog.LOGGED_VALUE)})", "{{name}} {{phase}}"),
            width=24,
            height=6,
        ),
    ]


def _gradients() -> list[Panel]:
    age = f"time() - max by (optimizer) ({of_run(catalog.LAST_GRADIENT)})"
    return [
        lines(
            "Gradient norm",
            "2-norm of the whole gradient: as applied, after clipping, and as clip_grad_norm_ found it.",
            Query(f"max by (optimizer) ({of_run(catalog.GRADIENT_NORM)})", "applied, optimizer {{optimizer}}"),
            Query(
                f"max by (optimizer) ({of_run(catalog.GRADIENT_PRECLIP_NORM)})",
                "before clipping, optimizer {{optimizer}}",
            ),
            log=True,
        ),
        lines(
            "Gradient mean",
            "Mean of all gradient elements, as applied.",
            Query(f"avg by (optimizer) ({of_run(catalog.GRADIENT_MEAN)})", "optimizer {{optimizer}}"),
            unit="sci",
        ),
        lines(
            "Gradient variance",
            "Variance of all gradient elements, as applied.",
            Query(f"avg by (optimizer) ({of_run(catalog.GRADIENT_VARIANCE)})", "optimizer {{optimizer}}"),
            unit="sci",
            log=True,
        ),
        lines(
            "Gradient noise scale",
            "Batch size beyond which larger batches bring little (arXiv 1812.06162). Known with gradient accumulation "
            "only.",
            Query(f"avg by (optimizer) ({of_run(catalog.GRADIENT_NOISE_SCALE)})", "optimizer {{optimizer}}"),
            least=0,
            width=8,
            height=6,
        ),
        lines(
            "Age of these figures",
            "How long ago gradients were last read. Trimtab reads them only as often as its overhead budget allows.",
            Query(age, "optimizer {{optimizer}}"),
            unit="s",
            least=0,
            width=8,
            height=6,
        ),
        lines(
            "Steps between gradient statistics",
            "Gradients are read once in so many steps.",
            Query(f"max({of_run(catalog.GRADIENT_INTERVAL)})", "steps"),
            least=0,
            width=8,
            height=6,
        ),
    ]


def _speed() -> list[Panel]:
    buckets = f"sum by (le) ({rate(of_run(catalog.STEP_DURATION, '_bucket'))})"
    return [
        lines(
            "Samples per second",
            "Training samples, all ranks together.",
            Query(f"sum({rate(of_run(catalog.SAMPLES))})", "samples/s"),
            least=0,
            width=6,
        ),
        lines(
            "Steps per second",
            "Optimizer steps that changed the parameters.",
            Query(f"max by (optimizer) ({rate(of_run(catalog.STEPS))})", "optimizer {{optimizer}}"),
            least=0,
            width=6,
        ),
        lines(
            "Step time",
            "From the end of one step to the end of the next, from a histogram: read it as an order of magnitude.",
            Query(f"histogram_quantile(0.5, {buckets})", "half are faster"),
            Query(f"histogram_quantile(0.99, {buckets})", "99 in 100 are faster"),
            unit="s",
            log=True,
            width=6,
        ),
        lines(
            "Waiting for data",
            "Share of the time in which training waited for its loader.",
            Query(f"max by (rank) ({rate(of_run(catalog.DATA_WAIT))})", "rank {{rank}}"),
            unit="percentunit",
            least=0,
            width=6,
        ),
    ]


def _rules() -> list[Panel]:
    made = f"sum by (policy, action, outcome) ({of_run(catalog.ADJUSTMENTS)})"
    return [
        lines(
            "Rule levels",
            "Worst over the last minute; at 1 a rule fires. All 0 for a minute after an adjustment.",
            Query(f"max by (rule) ({of_run(catalog.RULE_LEVEL)})", "{{rule}}"),
            least=0,
            width=12,
            legend="right",
        ),
        lines(
            "Episodes",
            "How often each rule has fired.",
            Query(or_zero(f"sum by (rule) ({of_run(catalog.RULE_FIRED)})", "rule"), "{{rule}}"),
            least=0,
            width=6,
        ),
        lines(
            "Adjustments",
            "How many were applied, shown (dry run), silenced, refused, or failed.",
            Query(or_zero(made, "policy"), "{{policy}}: {{action}} {{outcome}}"),
            least=0,
            width=6,
        ),
        lines(
            "Signals",
            "What the rules judge, by optimizer: larger is worse, 0 is healthy.",
            Query(f"max by (signal, optimizer) ({of_run(catalog.SIGNAL)})", "{{signal}} {{optimizer}}"),
            width=12,
            legend="right",
        ),
        lines(
            "NaN and Inf",
            "How many were seen: losses, readings of gradients, logged values.",
            Query(or_zero(f"sum by (kind) ({of_run(catalog.NONFINITE)})", "kind"), "{{kind}}"),
            least=0,
            width=6,
        ),
        lines(
            "Steps not taken",
            "Skipped by GradScaler or by a policy.",
            Query(or_zero(f"sum by (reason) ({of_run(catalog.SKIPPED_STEPS)})", "reason"), "{{reason}}"),
            least=0,
            width=6,
        ),
    ]
