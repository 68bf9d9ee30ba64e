"""Loops of many kinds, ordinary and not, which train on the same numbers every time."""

import contextlib
import threading

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

import trimtab

STEPS = 40


class Loop:
    """What the loops below are made of: a model, data, and the same numbers every time."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.data = TensorDataset(torch.randn(22, 4), torch.randint(3, (22,)))
        self.loader = DataLoader(self.data, batch_size=4, shuffle=True)
        self.inputs, self.labels = self.data.tensors

    def loss(self, inputs=None, labels=None):
        inputs, labels = (self.inputs, self.labels) if inputs is None else (inputs, labels)
        return F.cross_entropy(self.model(inputs), labels)

    def step(self, loss):
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def epochs_with_validation(loop):
    for _ in range(6):
        for batch in loop.loader:
            loop.step(loop.loss(*batch))
        loop.model.eval()
        for batch in loop.loader:
            with torch.no_grad():
                loop.loss(*batch)
        loop.model.train()


def validation_with_grad(loop):
    for _ in range(STEPS):
        loop.step(loop.loss())
        loop.model.eval()
        loop.loss()
        loop.model.train()


def validation_in_the_middle(loop):
    for _ in range(6):
        for index, batch in enumerate(loop.loader):
            loop.step(loop.loss(*batch))
            if index == 2:
                with torch.no_grad():
                    loop.loss()


def whole_passes_within_a_pass(loop):
    for _ in range(6):
        for index, batch in enumerate(loop.loader):
            loop.step(loop.loss(*batch))
            if index % 3 == 2:
                for other in loop.loader:
                    loop.loss(*other)


def passes_that_are_left(loop):
    for length in (2, 3, 6, 4, 1, 6, 5, 6):
        for index, batch in enumerate(loop.loader):
            loop.step(loop.loss(*batch))
            if index == length - 1:
                break


def accumulation(loop):
    for _ in range(STEPS):
        for batch in list(loop.loader)[:3]:
            (loop.loss(*batch) / 3).backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def gradients_cleared_in_place(loop):
    for index in range(STEPS):
        loop.loss().backward()
        if index % 2:
            loop.optimizer.step()
            loop.optimizer.zero_grad(set_to_none=False)


def now_and_then_nothing(loop):
    for index in range(STEPS):
        if index % 5 == 3:
            loop.optimizer.step()
        elif index % 5 == 4:
            loop.loss().backward()
            loop.optimizer.zero_grad()
        else:
            loop.step(loop.loss())


def several_losses(loop):
    for index in range(STEPS):
        loss = loop.loss()
        if index % 2:
            loss = loss + 0.1 * F.mse_loss(loop.model(loop.inputs), torch.zeros(22, 3))
        loop.step(loss)
        if index % 7 == 0:
            F.l1_loss(loop.model(loop.inputs), torch.zeros(22, 3))


def scaled(loop):
    scaler = torch.amp.GradScaler("cpu", growth_interval=7)
    for index in range(STEPS):
        scaler.scale(loop.loss() * (torch.inf if index % 9 == 8 else 1.0)).backward()
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()


def checkpointed(loop):
    for _ in range(STEPS):
        loop.step(F.cross_entropy(checkpoint(loop.model, loop.inputs, use_reentrant=False), loop.labels))


def weights(loop):
    for index in range(STEPS):
        losses = F.cross_entropy(loop.model(loop.inputs), loop.labels, reduction="none")
        losses.backward(gradient=torch.full_like(losses, 1 / (1 + index % 3)))
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def another_optimizer_in_the_middle(loop):
    for index in range(STEPS):
        if index == STEPS // 2:
            loop.optimizer = torch.optim.Adam(loop.model.parameters())
        loop.step(loop.loss())


def on_and_on(loop):
    for _ in range(STEPS):
        loop.step(loop.loss())


def rate_that_falls(loop):
    scheduler = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.9)
    for _ in range(STEPS):
        loop.step(loop.loss())
        scheduler.step()


def rate_in_a_tensor(loop):
    for index in range(STEPS):
        if index == 20:
            loop.optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
        loop.step(loop.loss())


def groups_of_parameters(loop):
    first, _, last = loop.model
    groups = [{"params": first.parameters(), "weight_decay": 0.1}, {"params": last.parameters(), "lr": 0.02}]
    loop.optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, [lambda step: 0.9**step, lambda step: 1.0])
    for _ in range(STEPS):
        loop.step(loop.loss())
        scheduler.step()


def rates_of_groups_that_change_their_kind(loop):
    loop.optimizer = torch.optim.SGD([{"params": [p], "lr": 0.1} for p in loop.model.parameters()], lr=0.1)
    for index in range(STEPS):
        if index % 10 == 9:
            loop.optimizer.param_groups[1]["lr"] = torch.tensor(0.25) if index < 20 else 1
        if index % 10 == 0:
            loop.optimizer.param_groups[1]["lr"] = 0.1
        loop.step(loop.loss())
        if index == 19:
            loop.optimizer.param_groups[1]["lr"].fill_(0.5)


def group_added(loop):
    more = nn.Parameter(torch.zeros(3))
    for index in range(STEPS):
        if index == 20:
            loop.optimizer.add_param_group({"params": [more], "lr": 0.5})
        inputs, labels = loop.data.tensors
        loop.step(F.cross_entropy(loop.model(inputs) + more, labels))


def second_optimizer(loop):
    other = Loop()
    for index in range(STEPS):
        loop.step(loop.loss())
        if index > 15 and index % 2:
            other.step(other.loss())


def two_optimizers_for_one_loss(loop):
    other = torch.optim.Adam(loop.model[2].parameters())
    for index in range(STEPS):
        loop.loss().backward()
        loop.optimizer.step()
        if index > 20:
            other.step()
        loop.optimizer.zero_grad()


def clipped_now_and_then(loop):
    for index in range(STEPS):
        loop.loss().backward()
        if index % 6 == 5 or index > 30:
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def clipped(loop):
    for _ in range(STEPS):
        loop.loss().backward()
        nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def clipped_in_parts_now_and_then(loop):
    for index in range(STEPS):
        loop.loss().backward()
        nn.utils.clip_grad_norm_(loop.model[0].parameters(), 0.1)
        if index % 6 == 5:
            nn.utils.clip_grad_norm_(loop.model[2].parameters(), 0.1)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def clipped_in_other_ways_now_and_then(loop):
    parameters = list(loop.model.parameters())
    for index in range(STEPS):
        loop.loss().backward()
        kind = index % 12
        if kind == 8:
            nn.utils.clip_grad_norm_(parameters, 0.1, norm_type=torch.inf)
        elif kind == 9:
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            nn.utils.clip_grads_with_norm_(parameters, 0.1, norm)
        elif kind == 10:
            nn.utils.clip_grad_norm_([], 0.1)
        elif kind == 11:
            nn.utils.clip_grad_norm_(parameters[0], 0.1)
        else:
            nn.utils.clip_grad_norm_(parameters, 0.1)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def clipped_and_then_something_else(loop):
    other = torch.optim.Adam(loop.model[2].parameters())
    for index in range(STEPS):
        loss = loop.loss()
        loss.backward(retain_graph=True)
        nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1)
        if index % 8 == 4:
            loss.backward()
        elif index % 8 == 5:
            loop.optimizer.zero_grad()
            continue
        elif index % 8 == 6:
            loop.loss()
        elif index == 31:
            other.step()
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def clipping_that_raises(loop):
    for index in range(STEPS):
        (loop.loss() * (1e30 if index % 8 == 7 else 1.0)).backward()
        try:
            nn.utils.clip_grad_norm_(list(loop.model.parameters()), 0.1, error_if_nonfinite=True)
            loop.optimizer.step()
        except RuntimeError:
            for parameter in loop.model.parameters():
                parameter.grad.zero_()
            if index % 16 == 7:
                loop.optimizer.step()
        loop.optimizer.zero_grad()


def hook_of_the_users(loop):
    for index in range(STEPS):
        if index == 15:
            clip = loop.optimizer.register_step_pre_hook(
                lambda *_: nn.utils.clip_grad_norm_(loop.model.parameters(), 0.1) and None
            )
        if index == 25:
            clip.remove()
        loop.step(loop.loss())


def scheduler_in_a_hook(loop):
    scheduler = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.9)
    for index in range(STEPS):
        if index == 15:
            loop.optimizer.register_step_post_hook(lambda *_: scheduler.step())
        loop.step(loop.loss())


def closures(loop):
    def closure():
        loop.optimizer.zero_grad()
        loss = loop.loss()
        loss.backward()
        return loss

    for index in range(STEPS):
        if index % 12 == 11:
            loop.optimizer.step(closure)
        elif index % 12 == 10:
            loop.optimizer.step(closure=closure)
        else:
            loop.optimizer.zero_grad()
            loop.loss().backward()
            loop.optimizer.step(closure=None) if index % 12 == 9 else loop.optimizer.step()


class Moody(torch.optim.SGD):
    """Raises now and then, and now and then asks its parent, whose hooks fire as well."""

    mood = 0

    def step(self, closure=None):
        self.mood += 1
        if self.mood % 9 == 8:
            raise RuntimeError("not today")
        if self.mood > 25:
            return super().step(closure)
        return torch.optim.SGD.step.__wrapped__(self, closure)


def step_that_raises_or_nests(loop):
    loop.optimizer = Moody(loop.model.parameters(), lr=0.1)
    for _ in range(STEPS):
        with contextlib.suppress(RuntimeError):
            loop.step(loop.loss())
        loop.optimizer.zero_grad()


class Outer(torch.optim.Optimizer):
    """Steps another optimizer, as Lookahead does, from some step on."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.wraps, self.other = inner, 0, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

    def step(self, closure=None):
        self.wraps += 1
        if self.wraps > 20:
            self.other.step()
        torch.optim.SGD.step.__wrapped__(self.inner, closure)


def optimizer_inside_of_another(loop):
    loop.optimizer = Outer(loop.optimizer)
    for _ in range(STEPS):
        loop.step(loop.loss())


def backward_that_raises(loop):
    fails = False

    def fail(_):
        if fails:
            raise RuntimeError("not today")

    loop.model[2].bias.register_hook(fail)
    for index in range(STEPS):
        fails = index % 8 == 7
        with contextlib.suppress(RuntimeError):
            loop.loss().backward()
        if index % 16 != 7:
            loop.optimizer.step()
        loop.optimizer.zero_grad()


def losses_without_backward(loop):
    for index in range(STEPS):
        loss = loop.loss()
        if index % 6 != 5:
            loop.step(loss)


def backwards_without_step(loop):
    for index in range(STEPS):
        loop.loss().backward()
        if index % 6 != 5:
            loop.optimizer.step()
        loop.optimizer.zero_grad()


def backward_twice(loop):
    for index in range(STEPS):
        loss = loop.loss()
        if index % 6 == 5:
            loss.backward(retain_graph=True)
        loop.step(loss)


def backward_of_a_list(loop):
    for index in range(STEPS):
        loss = loop.loss()
        torch.autograd.backward([loss, loss * 2] if index % 6 == 5 else loss)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def backward_under_a_mode(loop):
    with torch.device("cpu"):
        for index in range(STEPS):
            torch.autograd.backward(loop.loss()) if index % 6 == 5 else loop.loss().backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()


def gradients_of_a_function(loop):
    def of(weights, inputs, labels):
        return F.cross_entropy(torch.func.functional_call(loop.model[2], weights, (loop.model[0](inputs),)), labels)

    for index in range(STEPS):
        if index % 6 == 5:
            weights = {name: p.detach() for name, p in loop.model[2].named_parameters()}
            torch.func.grad(of)(weights, loop.inputs, loop.labels)
        loop.step(loop.loss())


def weighed_now_and_then(loop):
    for index in range(STEPS):
        loop.loss().backward(torch.tensor(0.5) if index % 6 == 5 else None)
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def sums_now_and_then(loop):
    for index in range(STEPS):
        reduction = "sum" if index % 10 > 7 else "mean"
        loop.step(F.cross_entropy(loop.model(loop.inputs), loop.labels, reduction=reduction))


def another_loss_function(loop):
    for index in range(STEPS):
        loss = F.mse_loss(loop.model(loop.inputs), torch.zeros(22, 3)) if index % 10 > 7 else loop.loss()
        loop.step(loss)


def regression(loop):
    for _ in range(STEPS):
        loop.step(F.mse_loss(loop.model(loop.inputs), torch.zeros(22, 3)))


def by_hand(loop, inputs=None, labels=None):
    inputs, labels = (loop.inputs, loop.labels) if inputs is None else (inputs, labels)
    return -loop.model(inputs).log_softmax(1)[torch.arange(len(labels)), labels].mean()


def written_by_hand(loop):
    for _ in range(STEPS):
        loop.step(by_hand(loop))


def written_by_hand_for_batches(loop):
    for _ in range(8):
        for batch in loop.loader:
            loop.step(by_hand(loop, *batch))


def written_by_hand_with_a_validation(loop):
    for _ in range(8):
        for batch in loop.loader:
            loop.step(by_hand(loop, *batch))
        loop.model.eval()
        with torch.no_grad():
            loop.loss()
        loop.model.train()


def written_by_hand_in_part(loop):
    for index in range(STEPS):
        loop.step(loop.loss() + by_hand(loop) if index % 20 > 15 else by_hand(loop))


def written_by_hand_and_attacked(loop):
    inputs = loop.inputs.clone().requires_grad_()
    for index in range(STEPS):
        if index % 6 == 5:
            by_hand(loop, inputs, loop.labels).backward()
            loop.optimizer.zero_grad()
        if index % 8 == 7:
            loop.model.eval()
            by_hand(loop, inputs, loop.labels).backward()
            loop.model.train()
            loop.optimizer.zero_grad()
        loop.step(by_hand(loop))


def written_by_hand_or_no_scalar(loop):
    for index in range(STEPS):
        if index % 12 == 6:
            values = loop.model(loop.inputs)
            values.backward(torch.full_like(values, 0.01))
        elif index % 12 == 9:
            torch.autograd.backward([by_hand(loop), loop.model(loop.inputs).mean()])
        elif index % 12 == 11:
            with contextlib.suppress(RuntimeError):
                loop.model(loop.inputs).backward()
            by_hand(loop).backward()
        else:
            (by_hand(loop) * (float("nan") if index % 12 == 5 else 1.0)).backward()
            if index % 12 == 5:
                loop.optimizer.zero_grad()
                continue
        loop.optimizer.step()
        loop.optimizer.zero_grad()


class BackwardWithin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            (torch.ones(1, requires_grad=True) * 3).sum().backward()
        return gradient


def looked_at_in_eval_mode(loop, inputs, labels):
    loop.model.eval()
    by_hand(loop, inputs, labels).backward()
    loop.model.train()
    loop.optimizer.zero_grad()


def looked_at_in_a_thread(loop, inputs, labels):
    thread = threading.Thread(target=lambda: nn.Linear(4, 1)(inputs).mean().backward())
    thread.start()
    thread.join()


def looked_at_by_a_gradient(loop, inputs, labels):
    inputs.requires_grad_()
    torch.autograd.grad(BackwardWithin.apply(inputs).sum(), inputs)


def written_by_hand_but_for_batches_that_are_looked_at(loop):
    looks = [looked_at_in_eval_mode, looked_at_in_a_thread, looked_at_by_a_gradient]
    for look in looks:
        for index, batch in enumerate(DataLoader(loop.data, batch_size=2)):
            if index == 7:
                look(loop, *batch)
            else:
                loop.step(by_hand(loop, *batch))


def eval_mode_that_trains(loop):
    for index in range(STEPS):
        loop.model.train(index % 20 < 12)
        loop.step(loop.loss())


def heads_that_take_turns(loop):
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    loop.model = nn.ModuleList([first, second])
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1)
    for index in range(STEPS):
        loop.step(F.cross_entropy((second if index % 6 == 5 else first)(loop.inputs), loop.labels))


def scaler_in_the_middle(loop):
    scaler = torch.amp.GradScaler("cpu")
    for index in range(STEPS):
        if index < 20:
            loop.step(loop.loss())
            continue
        scaler.scale(loop.loss()).backward()
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()


def thread_that_trains_too(loop):
    other = Loop()
    for index in range(STEPS):
        loop.loss().backward()
        if index in (20, 21):
            thread = threading.Thread(target=lambda: other.step(other.loss()))
            thread.start()
            thread.join()
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def other_optimizer_steps_in_a_thread_meanwhile(loop):
    other = Loop()

    def elsewhere(*_):
        thread = threading.Thread(target=other.optimizer.step)
        thread.start()
        thread.join()

    for index in range(STEPS):
        if index == 20:
            handle = loop.optimizer.register_step_post_hook(elsewhere)
        loop.step(loop.loss())
        if index == 20:
            handle.remove()


def batches_of_other_kinds(loop):
    kinds = [tuple, list, lambda batch: dict(enumerate(batch)), lambda batch: batch]
    for kind in kinds:
        loader = DataLoader(loop.data, 4, collate_fn=lambda rows, kind=kind: kind(default_collate(rows)))
        for _ in range(2):
            for batch in loader:
                loop.step(loop.loss(batch[0], batch[1]))


def batches_that_are_fetched_ahead(loop):
    for _ in range(6):
        batches = iter(loop.loader)
        batch = next(batches)
        while batch is not None:
            ahead = next(batches, None)
            loop.step(loop.loss(*batch))
            batch = ahead


def batches_that_are_left_out(loop):
    for _ in range(6):
        for index, batch in enumerate(loop.loader):
            if index != 3:
                loop.step(loop.loss(*batch))


def sequences_time_first(loop):
    """As long as the batch is large at the beginning of each pass, then shorter and longer by one."""
    items = [torch.arange(length) % 3 for length in (4, 4, 3, 5, 3, 5, 3, 5, 3, 5, 3, 5) for _ in range(4)]
    table = nn.Embedding(3, 4)
    for _ in range(3):
        for (ids,) in DataLoader(items, 4, collate_fn=lambda rows: (torch.stack(rows, 1),)):
            loop.step(loop.loss(table(ids).flatten(0, 1), ids.flatten()))


def batches_that_are_thinned_out(loop):
    """The sampler says four, and what is collated is now and then fewer."""

    def thinned(rows):
        return default_collate(rows[: 3 if len(seen) % 3 == 2 else 4])

    seen = []
    for _ in range(6):
        for batch in DataLoader(loop.data, 4, collate_fn=thinned):
            seen.append(batch)
            loop.step(loop.loss(*batch))


def batches_of_any_size(loop):
    sizes = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18], [19, 20, 21]]
    for _ in range(6):
        for batch in DataLoader(loop.data, batch_sampler=sizes):
            loop.step(loop.loss(*batch))


def batches_of_indices(loop):
    sampler = BatchSampler(SequentialSampler(loop.data), 4, drop_last=False)
    for _ in range(6):
        for batch in DataLoader(loop.data, sampler=sampler, batch_size=None):
            loop.step(loop.loss(*batch))


def batches_that_a_dataset_makes(loop):
    class Windows(Dataset):
        def __len__(self):
            return 22

        def __getitem__(self, rows):
            rows = rows[: 2 + rows[0] % 3]
            return loop.inputs[rows], loop.labels[rows]

    data = Windows()
    sampler = BatchSampler(SequentialSampler(data), 4, drop_last=False)
    for _ in range(6):
        for batch in DataLoader(data, sampler=sampler, batch_size=None):
            loop.step(loop.loss(*batch))


def two_loaders_side_by_side(loop):
    for _ in range(6):
        for batch, _ in zip(loop.loader, DataLoader(loop.data, batch_size=4), strict=True):
            loop.step(loop.loss(*batch))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(4), 1)] * 50)


def stream_without_length(loop):
    for _ in range(3):
        for batch in DataLoader(Stream(), batch_size=2):
            loop.step(loop.loss(*batch))


def dry_runs_on_the_meta_device(loop):
    with torch.device("meta"):
        model = nn.Linear(4, 3)
        inputs, labels = torch.empty(6, 4), torch.empty(6, dtype=torch.long)
    for step in range(STEPS):
        if step % 7 == 0:
            F.cross_entropy(model(inputs), labels)
        if step % 11 == 0:
            F.cross_entropy(model(inputs), labels).backward()
        loop.step(loop.loss())


def one_model_after_the_other(loop):
    for _ in range(3):
        loop = Loop()
        for batch in [*loop.loader] * 3:
            loop.step(loop.loss(*batch))


def numbers_logged_on_the_way(loop):
    for index in range(STEPS):
        loop.step(loop.loss())
        if index % 6 == 5:
            trimtab.log(index=index)


def end_in_the_middle(loop):
    on_and_on(loop)
    loop.loss().backward()


LOOPS = [
    epochs_with_validation,
    validation_with_grad,
    validation_in_the_middle,
    whole_passes_within_a_pass,
    passes_that_are_left,
    accumulation,
    gradients_cleared_in_place,
    now_and_then_nothing,
    several_losses,
    scaled,
    checkpointed,
    weights,
    another_optimizer_in_the_middle,
    on_and_on,
    rate_that_falls,
    rate_in_a_tensor,
    groups_of_parameters,
    rates_of_groups_that_change_their_kind,
    group_added,
    second_optimizer,
    two_optimizers_for_one_loss,
    clipped,
    clipped_now_and_then,
    clipped_in_parts_now_and_then,
    clipped_in_other_ways_now_and_then,
    clipped_and_then_something_else,
    clipping_that_raises,
    hook_of_the_users,
    scheduler_in_a_hook,
    closures,
    step_that_raises_or_nests,
    optimizer_inside_of_another,
    backward_that_raises,
    losses_without_backward,
    backwards_without_step,
    backward_twice,
    backward_of_a_list,
    backward_under_a_mode,
    gradients_of_a_function,
    weighed_now_and_then,
    sums_now_and_then,
    another_loss_function,
    regression,
    written_by_hand,
    written_by_hand_for_batches,
    written_by_hand_with_a_validation,
    written_by_hand_in_part,
    written_by_hand_and_attacked,
    written_by_hand_or_no_scalar,
    written_by_hand_but_for_batches_that_are_looked_at,
    eval_mode_that_trains,
    heads_that_take_turns,
    scaler_in_the_middle,
    thread_that_trains_too,
    other_optimizer_steps_in_a_thread_meanwhile,
    batches_of_other_kinds,
    batches_that_are_fetched_ahead,
    batches_that_are_left_out,
    sequences_time_first,
    batches_that_are_thinned_out,
    batches_of_any_size,
    batches_of_indices,
    batches_that_a_dataset_makes,
    two_loaders_side_by_side,
    stream_without_length,
    dry_runs_on_the_meta_device,
    one_model_after_the_other,
    numbers_logged_on_the_way,
    end_in_the_middle,
]
