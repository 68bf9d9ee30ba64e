"""What each script really has, and hence what its log must show.

Strings are expressions over the script's own globals at its end (see `comparing.evaluate`): the script keeps its own
record, as people do, and the log has to agree with it. What a script does not have is listed under `absent`.
"""

from dataclasses import dataclass

EXACT = 1e-6  # the last digit of a float32
NORM = 1e-5


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The step records of one optimizer. Each is a list with one number a step; `skipped` is a count."""

    loss: str | None = None
    learning_rate: str | None = None
    gradient_norm: str | None = None
    preclip_norm: str | None = None
    skipped: str | None = None
    micro_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One run of one script."""

    script: str
    arguments: tuple[str, ...] = ()
    optimizers: tuple[Optimizer, ...] = ()  # in the order of their first steps
    epochs: str | int | None = None  # None: nobody says what an epoch would be
    train_loss: str | None = None  # one number an epoch
    train_accuracy: str | None = None
    validation_loss: str | None = None  # one number a pass; every pass has as many batches
    validation_accuracy: str | None = None
    samples: int | None = None
    absent: tuple[str, ...] = ()  # of "epoch", "validation", "accuracy"
    notice: str | None = None  # a kind of notice that must be there
    exit_code: int = 0
    status: str = "completed"
    needs: str | None = None
    loss_tolerance: float = EXACT
    slow: bool = False

    @property
    def name(self) -> str:
        return "-".join([self.script.removesuffix(".py"), *(a.removeprefix("--") for a in self.arguments)])


UNCOUNTED = ("epoch", "validation")  # a loop that has neither a loader that ends nor a validation

LOOPS = (
    Loop(
        script="mnist_example.py",
        arguments=("--save-model",),
        optimizers=(Optimizer(loss="history['loss']", learning_rate="history['lr']", micro_steps=1),),
        epochs=4,
        train_loss="epoch_means(history['loss'], [64] * 21 + [56])",
        validation_loss="history['test_loss']",
        validation_accuracy="history['test_accuracy']",
        samples=5600,
    ),
    Loop(
        script="prebound_loss.py",
        optimizers=(Optimizer(loss="losses"),),
        epochs=12,
        train_loss="epoch_means(losses, [26] * 5)",
        validation_loss="val_losses",
        validation_accuracy="val_accs",
    ),
    Loop(
        script="handwritten_loss.py",
        optimizers=(Optimizer(loss="losses", gradient_norm="grad_norms"),),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="char_gpt.py",
        optimizers=(
            Optimizer(
                loss="iter_losses",
                learning_rate="[[lr, lr] for lr in lrs]",
                preclip_norm="norms",
                gradient_norm="clipped(norms, 1.0)",
                micro_steps=2,
            ),
        ),
    ),
    Loop(
        script="word_lm.py",
        optimizers=(Optimizer(loss="train_losses", preclip_norm="norms"),),
        epochs=3,
        validation_loss="val_losses",
        notice="unseen_optimizer",
    ),
    Loop(
        script="split_estimates.py",
        optimizers=(Optimizer(loss="train_losses", learning_rate="[3e-3] * 101"),),
        validation_loss="val_estimates",
    ),
    Loop(
        script="dcgan.py",
        optimizers=(Optimizer(loss="D_losses", micro_steps=2), Optimizer(loss="G_losses", micro_steps=1)),
        epochs=2,
        absent=("validation",),
    ),
    Loop(
        script="gan_joint_order.py",
        optimizers=(
            Optimizer(loss="g_losses", gradient_norm="g_norms"),
            Optimizer(loss="d_losses", gradient_norm="d_norms"),
        ),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="joint_loss.py",
        optimizers=(Optimizer(loss="losses", learning_rate="[1e-3] * 90"), Optimizer(loss="losses")),
        epochs=10,
        train_loss="epoch_means(losses, [40] * 9)",
        validation_loss="val_losses",
        samples=3600,
        absent=("accuracy",),
    ),
    Loop(
        script="vae.py",
        optimizers=(Optimizer(loss="batch_losses"),),
        epochs=4,
        samples=6000,
        absent=("accuracy",),
    ),
    Loop(
        script="lbfgs_sine.py",
        optimizers=(Optimizer(loss="first_losses"),),
        validation_loss="test_losses",
        absent=("accuracy",),
    ),
    *(
        Loop(
            script="sam.py",
            arguments=(variant,),
            optimizers=(Optimizer(loss="perturbed_losses", learning_rate="[0.05] * 42"),),
            epochs=6,
            validation_loss="val_losses",
        )
        for variant in ("two-steps", "closure")
    ),
    *(
        Loop(
            script="amp_scaler.py",
            arguments=arguments,
            optimizers=(
                Optimizer(
                    loss="kept(losses, skipped)",
                    learning_rate="kept([1e-2] * len(losses), skipped)",
                    preclip_norm="kept(norms, skipped)" if "--clip" in arguments else None,
                    gradient_norm="clipped(kept(norms, skipped), 0.5)" if "--clip" in arguments else None,
                    skipped="sum(skipped)",
                ),
            ),
            epochs=2,
            absent=("validation",),
        )
        for arguments in (
            (),
            ("--optimizer", "adam", "--clip", "0.5"),
            ("--fused",),
            ("--fused", "--optimizer", "adam"),
            ("--fused", "--optimizer", "adamw", "--clip", "0.5"),
        )
    ),
    Loop(
        script="full_batch_gcn.py",
        optimizers=(Optimizer(loss="losses", learning_rate="[[0.01, 0.01]] * 60"),),
        absent=UNCOUNTED,
    ),
    *(
        Loop(
            script="loader_workers.py",
            arguments=("--context", context),
            optimizers=(Optimizer(loss="history['loss']"),),
            epochs=3,
            train_loss="history['train_loss']",
            validation_loss="history['val_loss']",
            validation_accuracy="history['val_acc']",
            samples=4200,
            slow=context == "spawn",
        )
        for context in ("fork", "spawn")
    ),
    Loop(
        script="threaded.py",
        optimizers=(Optimizer(loss="losses"),),
        epochs=15,
        train_loss="epoch_losses",
        samples=2400,
        absent=("validation",),
    ),
    Loop(
        script="compiled_model.py",
        optimizers=(Optimizer(loss="losses", preclip_norm="norms", gradient_norm="clipped(norms, 1.0)"),),
        validation_loss="val_losses",
        validation_accuracy="val_accs",
    ),
    Loop(
        script="compiled_model.py",
        arguments=("--backend", "inductor"),
        optimizers=(Optimizer(loss="losses", preclip_norm="norms"),),
        validation_loss="val_losses",
        validation_accuracy="val_accs",
        slow=True,
    ),
    *(
        Loop(
            script="compiled_step.py",
            arguments=(backend,),
            optimizers=(Optimizer(loss="losses", learning_rate="[0.1] * 36"),),
            absent=UNCOUNTED,
        )
        for backend in ("eager", "aot_eager")
    ),
    Loop(
        script="lightning_classifier.py",
        optimizers=(
            Optimizer(
                loss="[mean(pair) for pair in chunks(losses, 2)]",
                learning_rate="lrs",
                gradient_norm="norms",
                micro_steps=2,
            ),
        ),
        epochs=3,
        train_loss="epoch_means(losses, [50] * 28)",
        validation_loss="val_losses",
        validation_accuracy="val_accs",
        samples=4200,
        needs="lightning",
    ),
    Loop(
        script="lightning_gan.py",
        optimizers=(Optimizer(loss="g_losses"), Optimizer(loss="d_losses")),
        epochs=2,
        absent=("validation",),
        needs="lightning",
    ),
    Loop(
        script="hf_trainer.py",
        optimizers=(
            Optimizer(
                loss="train_loss",
                learning_rate="[[lr, lr] for lr in learning_rate]",
                preclip_norm="grad_norm",
                micro_steps=2,
            ),
        ),
        epochs=3,
        validation_loss="eval_loss",
        validation_accuracy="eval_accuracy",
        samples=432,
        loss_tolerance=1e-4,
        needs="transformers",
    ),
    Loop(
        script="accelerate_loop.py",
        optimizers=(
            Optimizer(
                loss="record['loss']",
                learning_rate="record['lr']",
                preclip_norm="record['norm']",
                gradient_norm="clipped(record['norm'], 1.0)",
                micro_steps=4,
            ),
        ),
        epochs=3,
        train_loss="epoch_means(record['loss'], [160] * 9)",
        validation_loss="record['eval_loss']",
        validation_accuracy="record['eval_accuracy']",
        samples=4320,
        needs="accelerate",
    ),
    Loop(
        script="reinforce.py",
        optimizers=(Optimizer(loss="policy_losses"),),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="ppo.py",
        optimizers=(
            Optimizer(
                loss="losses", learning_rate="lrs", preclip_norm="grad_norms", gradient_norm="clipped(grad_norms, 0.5)"
            ),
        ),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="imbalanced_binary.py",
        optimizers=(Optimizer(loss="losses"),),
        epochs=6,
        train_loss="epoch_means(losses, [32] * 12 + [14])",
        validation_loss="val_losses",
        validation_accuracy="val_accuracies",
        samples=2388,
    ),
    Loop(
        script="segmentation.py",
        optimizers=(Optimizer(loss="step_losses"),),
        epochs=3,
        validation_loss="val_losses",
        validation_accuracy="pixel_accuracies",
    ),
    Loop(
        script="mixup.py",
        optimizers=(Optimizer(loss="losses"),),
        epochs=6,
        validation_loss="val_losses",
        validation_accuracy="val_accs",
    ),
    Loop(
        script="weighted_samples.py",
        optimizers=(Optimizer(loss="losses"),),
        absent=UNCOUNTED,
    ),
    Loop(
        script="optimizer_in_backward.py",
        optimizers=(Optimizer(loss="losses", gradient_norm="grad_norms", learning_rate="[2e-3] * 60"),),
        absent=UNCOUNTED,
    ),
    Loop(
        script="finetune.py",
        optimizers=(Optimizer(loss="history['step_loss']", learning_rate="history['lr']"),),
        epochs=6,
        train_loss="history['train_loss']",
        train_accuracy="history['train_acc']",
        validation_loss="history['val_loss']",
        validation_accuracy="history['val_acc']",
        samples=7200,
    ),
    Loop(
        script="sparse_embeddings.py",
        optimizers=(
            Optimizer(loss="losses", gradient_norm="sparse_norms", learning_rate="[1e-2] * 80"),
            Optimizer(loss="losses", gradient_norm="dense_norms", learning_rate="[1e-3] * 80"),
        ),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="bf16.py",
        optimizers=(
            Optimizer(loss="autocast_losses", gradient_norm="autocast_norms"),
            Optimizer(loss="bf16_losses", gradient_norm="bf16_norms"),
        ),
        absent=UNCOUNTED,
    ),
    Loop(
        script="exit_code.py",
        optimizers=(Optimizer(loss="losses"),),
        absent=UNCOUNTED,
        exit_code=3,
        status="failed",
    ),
    Loop(
        script="crash.py",
        optimizers=(Optimizer(loss="losses"),),
        absent=(*UNCOUNTED, "accuracy"),
        exit_code=1,
        status="failed",
    ),
    Loop(
        script="interrupted.py",
        optimizers=(Optimizer(loss="losses"),),
        absent=(*UNCOUNTED, "accuracy"),
        exit_code=-2,
        status="interrupted",
    ),
    Loop(
        script="diverging.py",
        optimizers=(Optimizer(loss="losses"),),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    *(
        Loop(
            script="odd_optimizers.py",
            arguments=(kind,),
            optimizers=(Optimizer(loss="losses"),),
            absent=UNCOUNTED,
            notice="unseen_optimizer" if kind in ("forgetful", "plain") else None,
        )
        for kind in ("subclass", "lookahead", "forgetful", "plain")
    ),
    *(
        Loop(
            script="schedules.py",
            arguments=(schedule,),
            optimizers=(Optimizer(loss="losses", learning_rate="lrs"),),
            epochs=6,
            train_loss="train_losses",
            validation_loss="val_losses",
            samples=2160,
            absent=("accuracy",),
            needs="transformers" if schedule == "none" else None,
        )
        for schedule in ("onecycle", "plateau", "tensor", "warm-restarts", "sequential", "none")
    ),
    *(
        Loop(
            script="metric_losses.py",
            arguments=(loss,),
            optimizers=(Optimizer(loss="losses", gradient_norm="grad_norms"),),
            absent=UNCOUNTED if loss == "contrastive" else (*UNCOUNTED, "accuracy"),
        )
        for loss in ("triplet", "cosine", "ranking", "contrastive", "ctc")
    ),
    Loop(
        script="tied_weights.py",
        optimizers=(Optimizer(loss="losses", gradient_norm="grad_norms"),),
        absent=(*UNCOUNTED, "accuracy"),
    ),
    Loop(
        script="endless_stream.py",
        optimizers=(Optimizer(loss="losses"),),
        samples=2560,
        absent=UNCOUNTED,
    ),
    Loop(
        script="early_stopping.py",
        optimizers=(Optimizer(loss="record['loss']", learning_rate="record['lr']"),),
        epochs="len(record['valid_loss'])",
        train_loss="record['train_loss']",
        validation_loss="record['valid_loss']",
        validation_accuracy="record['valid_acc']",
    ),
    Loop(
        script="fastai_learner.py",
        optimizers=(Optimizer(loss="losses", learning_rate="lrs"),),
        epochs=3,
        train_loss="[row[0] for row in rows]",
        train_accuracy="[row[1] for row in rows]",
        validation_loss="[row[2] for row in rows]",
        validation_accuracy="[row[3] for row in rows]",
        samples=4200,
    ),
    Loop(
        script="distillation.py",
        optimizers=(
            Optimizer(loss="teacher_losses + student_losses"),
        ),  # the student's takes the index of the dead one
        epochs=6,
        samples=8400,
        absent=("validation",),
    ),
)
