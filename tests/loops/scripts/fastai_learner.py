"""A Learner with callbacks, which stops batches and epochs by raising; a progress table instead of logging."""
import torch
import torch.nn.functional as F
from functools import partial
from operator import attrgetter
from sklearn.datasets import load_digits
from torch import nn, optim


class CancelBatchException(Exception): pass
class CancelEpochException(Exception): pass
class CancelFitException(Exception): pass


class Callback: order = 0


class DataLoaders:
    def __init__(self, *dls): self.train, self.valid = dls[:2]


def run_cbs(cbs, method_nm, learn):
    for cb in sorted(cbs, key=attrgetter("order")):
        method = getattr(cb, method_nm, None)
        if method is not None: method(learn)


class TrainCB(Callback):
    def predict(self, learn): learn.preds = learn.model(learn.batch[0])
    def get_loss(self, learn): learn.loss = learn.loss_func(learn.preds, learn.batch[1])
    def backward(self, learn): learn.loss.backward()
    def step(self, learn): learn.opt.step()
    def zero_grad(self, learn): learn.opt.zero_grad()


class OneCycleCB(Callback):
    def before_fit(self, learn):
        self.sched = optim.lr_scheduler.OneCycleLR(learn.opt, learn.lr, total_steps=learn.n_epochs * len(learn.dls.train))
    def after_batch(self, learn):
        if learn.training: self.sched.step()


class MetricsCB(Callback):
    order = 10
    def __init__(self): self.rows = []
    def before_epoch(self, learn): self.totals = {True: [0.0, 0, 0], False: [0.0, 0, 0]}
    def after_batch(self, learn):
        t, n = self.totals[learn.training], len(learn.batch[1])
        t[0] += learn.loss.item() * n
        t[1] += (learn.preds.argmax(1) == learn.batch[1]).sum().item()
        t[2] += n
    def after_epoch(self, learn):
        (tl, ta, tn), (vl, va, vn) = self.totals[True], self.totals[False]
        self.rows.append([tl / tn, ta / tn, vl / vn, va / vn])
        print(learn.epoch, "  ".join(f"{v:.4f}" for v in self.rows[-1]))


class RecorderCB(Callback):
    order = -1
    def __init__(self): self.losses, self.lrs = [], []
    def after_batch(self, learn):
        if learn.training:
            self.losses.append(learn.loss.item())
            self.lrs.append(learn.opt.param_groups[0]["lr"])


class with_cbs:
    def __init__(self, nm): self.nm = nm
    def __call__(self, f):
        def _f(o, *args, **kwargs):
            try:
                o.callback(f"before_{self.nm}")
                f(o, *args, **kwargs)
                o.callback(f"after_{self.nm}")
            except globals()[f"Cancel{self.nm.title()}Exception"]: pass
        return _f


class Learner:
    def __init__(self, model, dls, loss_func=F.mse_loss, lr=0.1, cbs=None, opt_func=optim.SGD):
        self.model, self.dls, self.loss_func, self.lr = model, dls, loss_func, lr
        self.cbs, self.opt_func = list(cbs or []), opt_func

    @with_cbs("batch")
    def _one_batch(self):
        self.callback("predict")
        self.callback("get_loss")
        if self.training:
            self.callback("backward")
            self.callback("step")
            self.callback("zero_grad")

    @with_cbs("epoch")
    def _one_epoch(self):
        for self.iter, self.batch in enumerate(self.dl): self._one_batch()

    def one_epoch(self, training):
        self.model.train(training)
        self.dl = self.dls.train if training else self.dls.valid
        self._one_epoch()

    @with_cbs("fit")
    def _fit(self):
        for self.epoch in range(self.n_epochs):
            self.one_epoch(True)
            with torch.inference_mode(): self.one_epoch(False)

    def fit(self, n_epochs):
        self.n_epochs, self.opt = n_epochs, self.opt_func(self.model.parameters(), self.lr)
        self._fit()

    def callback(self, method_nm): run_cbs(self.cbs, method_nm, self)
    @property
    def training(self): return self.model.training


class EpochTotals(MetricsCB):
    """One row for both passes: written after the validation pass only."""
    def before_epoch(self, learn):
        if learn.training: super().before_epoch(learn)
    def after_epoch(self, learn):
        if not learn.training: super().after_epoch(learn)


torch.manual_seed(42)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
mk = partial(torch.utils.data.DataLoader, batch_size=64)
dls = DataLoaders(mk(torch.utils.data.TensorDataset(x[:1400], y[:1400]), shuffle=True),
                  mk(torch.utils.data.TensorDataset(x[1400:], y[1400:])))
conv = lambda ni, nf: nn.Sequential(nn.Conv2d(ni, nf, 3, stride=2, padding=1), nn.BatchNorm2d(nf), nn.ReLU())
model = nn.Sequential(conv(1, 8), conv(8, 16), conv(16, 32), nn.Flatten(), nn.Linear(32, 10))
metrics, recorder = EpochTotals(), RecorderCB()
learn = Learner(model, dls, F.cross_entropy, lr=0.02, cbs=[TrainCB(), OneCycleCB(), metrics, recorder], opt_func=optim.AdamW)
learn.fit(3)
losses, lrs, rows = recorder.losses, recorder.lrs, metrics.rows
