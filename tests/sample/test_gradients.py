"""Gradient statistics against float64, for every kind of gradient that PyTorch makes."""

import math
from fractions import Fraction
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimtab.sample import gradients
from trimtab.sample.elements import elements_of
from trimtab.sample.gradients import finite, take
from trimtab.sample.moments import Moments, combine

KINDS = {
    "random": lambda noise: noise * 1e-3,
    "huge": lambda noise: noise.sign() * (1e20 + noise.abs() * 6e37),
    "overflowing": lambda noise: noise * 1e18,
    "underflowing": lambda noise: noise * 1e-22,
    "tiny": lambda noise: noise * 1e-30,
    "denormal": lambda noise: noise * 1e-40,
    "constant": lambda noise: torch.full_like(noise, 0.1),
    "dominated": lambda noise: 1 + 1e-4 * noise,
    "signs": lambda noise: torch.where(noise < 0, -1 / 1.7, 1 / 1.7),
    "cancelling": lambda noise: noise - noise.mean(),
    "outlier": lambda noise: torch.where(torch.arange(len(noise)) == len(noise) // 2, 1e18, noise),
    "zero": lambda noise: torch.zeros_like(noise),
}


def make(kind, size, seed=0, dtype=torch.float32):
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return KINDS[kind](noise).to(dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that a small gradient crosses."""
    monkeypatch.setattr(gradients, "BLOCK", 16 * 1024)
    monkeypatch.setattr(gradients, "DEVICE_BLOCK", 1000)


def on_cpu(tensors):
    return take(tensors).read()


def on_device(tensors):
    """What would run on a device, on the CPU."""
    with torch.no_grad():
        pending = gradients._OnDevice({i: elements_of(t) for i, t in enumerate(tensors)})
    assert pending.ready()
    return [moments for _, moments in pending.read()]


both_ways = pytest.mark.parametrize("way", [on_cpu, on_device])


def exactly(gradient):
    """All elements, dense, real and flat, in float64."""
    dense = gradient.detach()
    if dense.layout is not torch.strided:
        dense = dense.to_dense()
    if dense.is_complex():
        dense = torch.view_as_real(dense.resolve_conj().resolve_neg())
    return dense.double().flatten()


def assert_right(moments, gradient):
    """To 1e-5 of float64; where the mean cancels, to 1e-5 of the root mean square. Variance down to float64's end."""
    exact = exactly(gradient)
    unit = exact.abs().max().item() or 1.0
    exact = exact / unit
    mean = exact.mean().item()
    rms = exact.square().mean().sqrt().item()
    assert moments.size == exact.numel()
    assert moments.finite
    assert moments.max_abs / unit == exact.abs().max().item()
    assert moments.mean / unit == pytest.approx(mean, rel=1e-5, abs=1e-5 * rms)
    assert moments.variance / unit**2 == pytest.approx((exact - mean).square().mean().item(), rel=1e-5, abs=1e-30)
    assert moments.norm / unit == pytest.approx(exact.norm().item(), rel=1e-5, abs=0.0)


def assert_all_right(found, tensors):
    for moments, tensor in zip(found, tensors, strict=True):
        assert_right(moments, tensor)


@both_ways
@pytest.mark.parametrize("kind", KINDS)
def test_moments_agree_with_float64(kind, way):
    tensors = [make(kind, size) for size in (1, 2, 33, 64, 640, 4097, 70_001)]
    assert_all_right(way(tensors), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_several_blocks_agree_with_float64(kind):
    tensor = make(kind, 2 * gradients.BLOCK + gradients.ROW + 3)
    assert_all_right(on_cpu([tensor]), [tensor])


@both_ways
def test_moments_of_many_blocks_agree_with_float64(way, small_blocks):
    tensors = [make(kind, 70_001) for kind in KINDS]
    assert_all_right(way(tensors), tensors)


@settings(deadline=None, max_examples=150)
@given(
    size=st.integers(1, 20_000),
    exponent=st.floats(-38, 37),
    offset=st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e3, 1e5]),
    zeros=st.sampled_from([0.0, 0.5, 0.99]),
    seed=st.integers(0, 2**31),
)
def test_moments_agree_with_float64_at_any_scale_and_offset(size, exponent, offset, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator, dtype=torch.float64) + offset
    values[torch.rand(size, generator=generator) < zeros] = 0
    tensor = (values / (10 + offset) * 10.0**exponent).float()
    assert_all_right(on_cpu([tensor]), [tensor])


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=80))
def test_moments_agree_with_exact_sums(numbers):
    (moments,) = on_cpu([torch.tensor(numbers, dtype=torch.float32)])
    mean_square = math.fsum(number * number for number in numbers) / len(numbers)
    assert moments.mean == pytest.approx(math.fsum(numbers) / len(numbers), rel=1e-5, abs=1e-5 * math.sqrt(mean_square))
    assert moments.norm == pytest.approx(math.sqrt(mean_square * len(numbers)), rel=1e-5, abs=0.0)
    assert moments.max_abs == max(map(abs, numbers))


@both_ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_neither_round_nor_overflow(dtype, way):
    full = torch.full((70_000,), 65504.0, dtype=dtype)
    tensors = [make("random", 5000, dtype=dtype), make("signs", 400, dtype=dtype), full]
    assert_all_right(way(tensors), tensors)


def test_float64_is_followed_to_its_end():
    large, beyond = on_cpu([make("signs", 198, dtype=torch.float64) * 1.7e150, torch.arange(99).double() * 1e306])
    assert large.norm == pytest.approx(math.sqrt(198) * 1e150)
    assert beyond.mean == pytest.approx(49e306)
    assert beyond.variance == beyond.norm == math.inf
    assert beyond.finite


@both_ways
@pytest.mark.parametrize("size", [3, 100, 9000])
def test_complex_elements_are_counted_as_real_and_imaginary_parts(size, way):
    tensor = torch.complex(make("random", size), make("random", size, seed=1))
    tensors = [tensor, tensor.conj(), torch._neg_view(tensor), tensor.conj().imag, tensor.to(torch.complex128)]
    assert_all_right(way(tensors), tensors)
    assert way([tensor])[0].size == 2 * size


VIEWS = {
    "0-d": lambda: torch.tensor(-3.5),
    "transposed": lambda: make("random", 60_000).view(200, 300).t(),
    "permuted": lambda: make("random", 24_000).view(20, 30, 40).permute(2, 0, 1),
    "channels_last": lambda: make("random", 24_000).view(4, 10, 20, 30).to(memory_format=torch.channels_last),
    "strided": lambda: make("random", 60_000).view(200, 300)[::2, 1::3],
    "large and strided": lambda: make("random", 120_000).view(300, 400)[::2, 1:-1],
    "expanded": lambda: make("random", 30).view(30, 1).expand(30, 400),
    "expanded scalar": lambda: torch.tensor(0.1).expand(70, 80),
    "overlapping": lambda: make("random", 9000).as_strided((8000, 3), (1, 2)),
    "of a parameter": lambda: torch.nn.Parameter(make("random", 5000)),
    "mkldnn": lambda: make("random", 5000).view(50, 100).to_mkldnn(),
}


@both_ways
@pytest.mark.parametrize("name", VIEWS)
def test_layout_in_memory_does_not_matter(name, way, small_blocks):
    tensor = VIEWS[name]()
    assert_all_right(way([tensor]), [tensor])


def sparse(rows, values, shape):
    return torch.sparse_coo_tensor(torch.tensor(rows), values, shape, check_invariants=True)


SPARSE = {
    "uncoalesced": lambda: sparse([[3, 0, 3], [1, 2, 1]], torch.tensor([1.0, 2.0, -3.0]), (10, 5)),
    "few": lambda: sparse([[1, 4, 6, 4]], make("random", 4), (20,)),
    "hybrid": lambda: sparse([[3, 0, 3, 9]], make("random", 400).view(4, 100), (10, 100)),
    "coalesced": lambda: sparse([[3, 0, 3, 9]], make("random", 400).view(4, 100), (10, 100)).coalesce(),
    "complex": lambda: sparse([[3, 0, 3], [1, 2, 1]], torch.tensor([1j, 2j, 3]), (10, 5)),
    "nothing stored": lambda: torch.zeros(1000, 64).to_sparse(),
    "huge": lambda: sparse([[1, 2]], torch.tensor([1e25, -3e38]), (100,)),
    "half": lambda: sparse([[3, 0, 9]], make("dominated", 300, dtype=torch.bfloat16).view(3, 100), (10, 100)),
}


@both_ways
@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # before PyTorch 2.13, whatever is asked for
def test_sparse_gradients_count_their_zeros(name, way):
    tensor = SPARSE[name]()
    before = tensor.is_coalesced()
    assert_all_right(way([tensor]), [tensor])
    assert tensor.is_coalesced() == before


def test_a_sparse_embedding_has_the_statistics_of_a_dense_one():
    embedding = torch.nn.Embedding(100, 8, sparse=True)
    embedding(torch.tensor([1, 1, 7])).square().sum().backward()
    assert_all_right(on_cpu([embedding.weight.grad]), [embedding.weight.grad])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_compressed_gradients_count_their_zeros():
    tensor = make("random", 100).view(10, 10).relu().to_sparse_csr()
    assert_all_right(on_cpu([tensor]), [tensor])


@both_ways
def test_no_elements_give_zeros(way):
    assert way([torch.zeros(0), torch.zeros(3, 0, 5), torch.zeros(0).to_sparse()]) == [Moments(0, 0.0, 0.0, 0.0)] * 3
    assert (Moments(0, 0.0, 0.0, 0.0).variance, Moments(0, 0.0, 0.0, 0.0).norm) == (0.0, 0.0)
    assert on_cpu([]) == []


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("size", [3, 300, 9000, 40_000])
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf], [math.inf, math.nan]])
def test_nan_and_inf_are_never_hidden(bad, size, dtype, way, small_blocks):
    worst = math.nan if math.isnan(bad[-1]) else math.inf
    for start in (0, size // 2, size - len(bad)):
        tensor = torch.ones(size, dtype=dtype)
        tensor[start : start + len(bad)] = torch.tensor(bad, dtype=dtype)
        (found,) = way([tensor])
        assert [found.max_abs, found.norm] == pytest.approx([worst, worst], nan_ok=True)
        assert [found.mean, found.variance] == pytest.approx([math.nan, math.nan], nan_ok=True)
        assert not found.finite


def test_many_gradients_of_one_shape_are_told_apart():
    tensors = [make(kind, 384, seed) for seed in range(4) for kind in KINDS]
    tensors += [make("random", size) for size in (10, 384, 5000, 0, 384)]
    tensors += [make("random", 72).view(2, 4, 3, 3).to(memory_format=torch.channels_last) for _ in range(4)]
    tensors += [make("dominated", 384, seed, torch.bfloat16) for seed in range(600)]
    tensors += [sparse([[3, 0, 9]], make("random", 384, seed).view(3, 128), (10, 128)) for seed in range(4)]
    tensors += [SPARSE["nothing stored"]() for _ in range(4)]
    assert_all_right(on_cpu([t for t in tensors if t.numel()]), [t for t in tensors if t.numel()])


def test_small_gradients_of_one_size_are_read_once_though_their_mean_outweighs(monkeypatch):
    again = Mock(wraps=gradients._in_float64)
    monkeypatch.setattr(gradients, "_in_float64", again)
    tensors = [make("dominated", 384, seed) for seed in range(4)]
    assert_all_right(on_cpu(tensors), tensors)
    assert not again.called
    on_cpu(tensors[:1])
    assert again.called


@pytest.mark.parametrize(("unit", "offset"), [(1e200, 0.0), (1e-200, 0.0), (1e-150, 0.0), (1.0, 1e6), (1.0, 1e-300)])
def test_float64_gradients_of_one_size_at_any_scale(unit, offset):
    tensors = [torch.randn(384, dtype=torch.float64) * unit + offset for _ in range(4)]
    for found, tensor in zip(on_cpu(tensors), tensors, strict=True):
        exact = [Fraction(number) for number in tensor.tolist()]
        mean = sum(exact) / len(exact)
        mean_square = sum(number * number for number in exact) / len(exact)
        m2 = sum((number - mean) ** 2 for number in exact)
        assert found.max_abs == tensor.abs().max().item()
        assert abs(Fraction(found.mean) - mean) ** 2 <= Fraction(1e-5) ** 2 * mean_square
        if 1e-300 < m2 < Fraction(1e300):
            assert abs(Fraction(found.m2) - m2) <= Fraction(1e-5) * m2


def test_one_nan_among_many_gradients_of_one_shape_stays_alone():
    tensors = [make("random", 384) for _ in range(8)]
    tensors[3][100] = math.nan
    assert [moments.finite for moments in on_cpu(tensors)] == [True, True, True, False, True, True, True, True]


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-(2**20), 2**20, width=32), max_size=20), min_size=1, max_size=10))
def test_combined_parts_equal_the_whole(parts):
    whole = torch.tensor([number for part in parts for number in part], dtype=torch.float64)
    combined = combine(on_cpu([torch.tensor(part, dtype=torch.float64) for part in parts]))
    assert combined.size == whole.numel()
    if combined.size:
        assert combined.max_abs == whole.abs().max().item()
        scale = combined.max_abs or 1.0
        assert combined.mean / scale == pytest.approx(whole.mean().item() / scale, abs=1e-12)
        assert combined.variance / scale**2 == pytest.approx(whole.var(correction=0).item() / scale**2, abs=1e-12)


def test_combining_carries_nan_and_inf_in_any_order():
    good, infinite, unknown = on_cpu([torch.ones(9), torch.tensor([math.inf]), torch.tensor([math.nan])])
    for parts in ((good, infinite), (infinite, good), (good, infinite, good, infinite)):
        assert combine(parts).max_abs == combine(parts).norm == math.inf
    for parts in ((good, unknown), (unknown, good), (infinite, unknown), (unknown, infinite, good)):
        assert all(math.isnan(figure) for figure in (combine(parts).max_abs, combine(parts).norm, combine(parts).mean))


def test_nothing_of_the_user_is_changed():
    tensors = [make(kind, size) for kind in KINDS for size in (5, 384, 9001)]
    tensors += [make("dominated", 9000, dtype=torch.float64), make("huge", 64).to_sparse(), VIEWS["strided"]()]
    versions, copies = [t._version for t in tensors], [t.clone() for t in tensors]
    random_state = torch.get_rng_state()
    on_cpu(tensors), on_device(tensors)
    assert [t._version for t in tensors] == versions
    assert all(torch.equal(exactly(t), exactly(c)) for t, c in zip(tensors, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


@both_ways
def test_what_was_taken_is_not_touched_by_later_changes(way):
    tensor, scale = make("signs", 5000), torch.tensor(2.0)
    taken = take([tensor], scale)
    pending = gradients._OnDevice({0: elements_of(tensor)})
    tensor.zero_()
    scale.fill_(1000.0)
    assert taken.read()[0].max_abs == pytest.approx(0.5 / 1.7)
    assert dict(pending.read())[0].max_abs == pytest.approx(1 / 1.7)


def test_the_same_gradients_give_the_same_figures():
    tensors = [make(kind, size) for kind in KINDS for size in (5, 384, 100_001)]
    assert on_cpu(tensors) == on_cpu([t.clone() for t in tensors])


@pytest.mark.parametrize("scale", [torch.tensor(1024.0), torch.tensor([3.0]), torch.tensor(0.5, dtype=torch.float64)])
def test_scale_divides(scale):
    tensors = [make("random", 5000), torch.zeros(0), make("dominated", 64)]
    found = take([t * scale.float() for t in tensors], scale).read()
    assert_right(found[0]._replace(max_abs=tensors[0].abs().max().item()), tensors[0])
    assert found[0].max_abs == pytest.approx(tensors[0].abs().max().item(), rel=1e-6)
    assert found[1].size == 0


def test_a_scale_of_zero_is_shown_not_raised():
    assert take([torch.ones(100)], torch.tensor(0.0)).read()[0].max_abs == math.inf


def test_reading_twice_gives_the_same():
    taken = take([make("random", 100)], torch.tensor(8.0))
    assert taken.ready()
    assert taken.read() == taken.read()


def test_flushed_denormals_do_not_matter():
    tensor = make("random", 4000) * 2e-16
    if not torch.set_flush_denormal(True):
        pytest.skip("needs a processor that can flush denormals to zero")
    try:
        found = on_cpu([tensor])
    finally:
        torch.set_flush_denormal(False)
    assert_all_right(found, [tensor])


class Opaque(torch.Tensor):
    """A subclass that objects to every function."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} reached the user's class")


def test_a_subclass_is_not_asked():
    tensors = [make("random", size) for size in (4, 640, 9001)]
    assert on_cpu([t.as_subclass(Opaque) for t in tensors]) == on_cpu(tensors)


@pytest.fixture
def two_ranks():
    """A mesh of two, of which this process is the first and the other never answers."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed")
def test_a_distributed_gradient_gives_its_local_shard(two_ranks):
    shard = make("random", 6000).view(100, 60)
    assert on_cpu([DTensor.from_local(shard, two_ranks, [Shard(0)])]) == on_cpu([shard])


@pytest.mark.parametrize(
    "context",
    [torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode(), torch.enable_grad()],
    ids=["autocast", "default device", "inference mode", "grad"],
)
def test_surroundings_do_not_matter(context):
    tensors = [make(kind, size).requires_grad_() for kind in ("random", "dominated") for size in (5, 384, 9001)]
    expected = on_cpu(tensors)
    with context:
        assert on_cpu(tensors) == expected


def test_nothing_is_kept_for_backward():
    def refuse(tensor):
        raise AssertionError("a tensor was saved for backward")

    tensors = [make(kind, size).requires_grad_() for kind in ("random", "dominated") for size in (5, 384, 9001)]
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        on_cpu(tensors)


class Allocations(TorchDispatchMode):
    """The largest new tensor that any operation makes, in bytes. It is told of ours, of which modes see nothing."""

    largest = 0

    def measure(self, tensors):
        with self:
            take.__wrapped__(tensors).read()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", ["random", "dominated"])
def test_memory_stays_within_a_block(kind, small_blocks):
    tensors = [make(kind, 90_000).view(300, 300), make(kind, 90_000, dtype=torch.bfloat16)]
    tensors += [tensors[0].t(), tensors[0][:, 1:-1], *make(kind, 80_000).view(20, 4000)]
    allocations = Allocations()
    allocations.measure(tensors)
    assert 0 < allocations.largest <= 4 * gradients.BLOCK


def test_dense_memory_is_not_copied():
    tensor = make("random", 90_000)
    allocations = Allocations()
    allocations.measure([tensor.view(300, 300).t(), tensor.view(30, 30, 100).permute(1, 2, 0)])
    assert 0 < allocations.largest <= 2048


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float64])
def test_one_bad_element_is_seen(bad, dtype):
    gradients = [torch.ones(0), torch.full((7,), 1e15, dtype=dtype), torch.randn(33).relu().to_sparse()]
    assert finite(gradients)
    assert finite([])
    gradients[1][3] = bad
    assert not finite(gradients)
    gradients[1] = torch.ones(3)
    gradients[2] = sparse([[0, 1]], torch.tensor([bad, 1.0]), (5,))
    assert not finite(gradients)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: run on a machine that has one")
    tensors = [make(kind, size) for kind in KINDS for size in (5, 384, 70_001)]
    there = [t.cuda() for t in tensors]
    scale = torch.tensor(1.0, device="cuda")
    take(there, scale).read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        taken = take(there, scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_all_right(taken.read(), tensors)
    assert taken.ready()


def test_norm_of_half_precision_may_be_larger_than_half_precision_itself():
    assert finite([torch.full((10_000,), 1000.0, dtype=torch.float16)])
    assert not finite([torch.tensor([math.inf], dtype=torch.float16)])


def test_norm_is_not_zero_where_squares_underflow():
    (moments,) = on_cpu([torch.tensor([1e-200, -1e-200], dtype=torch.float64)])
    assert moments.norm == 1e-200
