"""How much host memory snapshots may take when nobody said."""

from trimtab.actuators.memory import default_cap


def free(tmp_path, machine_kib, limit="max", used="0"):
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {machine_kib} kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    return default_cap(tmp_path / "meminfo", tmp_path)


def test_a_large_machine_gives_four_gibibytes(tmp_path):
    assert free(tmp_path, 2**30) == 4 * 2**30


def test_a_small_machine_gives_a_quarter_of_what_is_free(tmp_path):
    assert free(tmp_path, 2**20) == 2**28


def test_a_container_counts_by_its_own_limit(tmp_path):
    assert free(tmp_path, 2**30, limit=str(2**30), used=str(2**29)) == 2**27


def test_where_nothing_can_be_read_it_is_four_gibibytes(tmp_path):
    assert default_cap(tmp_path / "none", tmp_path) == 4 * 2**30
