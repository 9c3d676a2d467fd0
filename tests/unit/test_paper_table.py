"""The paper's table beside ours: figures over seeds and passes, and nothing where nothing was measured."""

from noprop_dist.reporting.paper_table import COLUMNS, PAPER, Cell, markdown, table_rows


def cell(seed, *stochastic, mean=0.99):
    return Cell(seed, 1.0, stochastic, mean, training_seconds=60.0 + seed, peak_memory_bytes=2**30)


def test_a_row_gives_mean_and_standard_error_over_seeds_and_passes():
    cells = {("noprop", "onehot"): [cell(0, 0.98, 0.99), cell(1, 0.97, 0.98, mean=0.97)]}
    rows = {row[0]: row[1:] for row in table_rows("mnist", cells)}
    assert rows["NoProp-DT, one-hot"] == ("2", "1", "98.00 ± 0.41", "98.00 ± 1.00", "99.47 ± 0.05", "60", "1,024")


def test_what_was_not_measured_is_empty_beside_the_paper():
    rows = {row[0]: row[1:] for row in table_rows("cifar10", {})}
    assert rows["NoProp-DT, prototype"] == ("", "", "", "", "80.54 ± 0.20", "", "")


def test_every_row_fits_the_columns_of_the_document():
    for data in PAPER:
        lines = markdown(table_rows(data, {("backprop", "onehot"): [cell(0, 0.5)]})).splitlines()
        assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
        assert len(lines) == 2 + len(PAPER[data])
