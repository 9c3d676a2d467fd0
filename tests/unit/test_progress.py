"""What people see while a run goes on."""

import io

from rich.console import Console

from noprop_dist.cli import progress as view
from noprop_dist.cli.terminal import Terminal
from noprop_dist.stages import CLASSIFIER, NETWORK, block
from noprop_dist.training.progress import (
    NEWS_KEPT,
    REPORTS_KEPT,
    NewsBoard,
    ProgressBoard,
    RunProgress,
    StageMeter,
    StageProgress,
    run_progress,
)


def test_a_board_keeps_each_stages_own_progress():
    board = ProgressBoard({block(1): 0, block(2): 0, CLASSIFIER: 0}, total_steps=20, now=100.0)
    assert [row.state for row in board.picture(100.0).stages] == ["starting"] * 3
    board.reported(block(1), 8, 0.5, now=104.0)
    board.reported(CLASSIFIER, 20, 1.0, now=105.0)
    one, two, classifier = board.picture(106.0).stages
    assert (one.step, one.loss, one.state) == (8, 0.5, "training")
    assert (two.step, two.loss, two.steps_per_second, two.state) == (0, None, 0.0, "waiting")
    assert classifier.state == "done"
    assert board.picture(106.0).elapsed_seconds == 6.0
    for t in (1, 2):
        board.reported(block(t), 20, 0.25, now=110.0)
    assert board.picture(110.0).remaining_seconds == 0
    assert board.picture(110.0).fraction == 1


def test_time_left_is_that_of_blocks_one_after_another_without_the_start():
    board = ProgressBoard({block(1): 0, block(2): 0, CLASSIFIER: 0}, total_steps=20, now=0.0)
    board.reported(block(1), 8, 0.5, now=30.0)
    assert board.picture(30.0).remaining_seconds is None, "one report may be all start-up"
    board.reported(block(1), 16, 0.5, now=34.0)
    assert board.picture(34.0).remaining_seconds == (4 + 20) / 2
    board.reported(block(1), 20, 0.5, now=36.0)
    assert board.picture(36.0).remaining_seconds == 20 / 2, "the first block is done, and the second has not begun"
    board.reported(block(2), 8, 0.5, now=40.0)
    assert board.picture(40.0).remaining_seconds == 12 / 2
    assert board.picture(40.0).block_steps_per_second == 2, "and not twice that"


def test_time_left_is_unknown_until_every_block_has_told_its_speed():
    meters = [StageMeter(block(t), 0, now=0.0) for t in (1, 2)]

    def remaining():
        rows = [meter.row("training") for meter in meters]
        return run_progress(20, rows, 1.0, NewsBoard()).remaining_seconds

    for step, now in ((8, 30.0), (12, 32.0)):
        meters[0].reported(step, 0.5, now)
    meters[1].reported(8, 0.5, now=33.0)
    assert remaining() is None
    meters[1].reported(12, 0.5, now=35.0)
    assert remaining() == (8 + 8) / 4


def test_a_resumed_board_begins_where_the_run_stopped():
    board = ProgressBoard({block(1): 10, CLASSIFIER: 10}, total_steps=20, now=0.0)
    assert board.picture(1.0).fraction == 0.5
    assert board.picture(1.0).block_steps_per_second == 0


def test_speed_is_that_of_the_last_few_reports():
    meter = StageMeter(block(1), step=0, now=0.0)
    meter.reported(1, 1.0, now=30.0)
    assert meter.row("training").steps_per_second == 0, "how long it took to start says nothing of it"
    for _ in range(REPORTS_KEPT):
        meter.reported(1, 1.0, now=50.0)
    meter.reported(1 + 4, 1.0, now=52.0)
    assert meter.row("training").steps_per_second == 2.0


def test_the_latest_news_is_kept_and_all_of_it_counted():
    board = ProgressBoard({NETWORK: 0}, total_steps=1, now=0.0)
    for number in range(NEWS_KEPT + 5):
        board.news.tell(f"line {number}")
    picture = board.picture(0.0)
    assert (len(picture.news), picture.news[-1], picture.news_told) == (
        NEWS_KEPT,
        f"line {NEWS_KEPT + 4}",
        NEWS_KEPT + 5,
    )
    assert [row.stage for row in picture.blocks] == [NETWORK], "a network that is trained as a whole counts as a block"


def progress(remaining=75.0, news=(), blocks=2):
    rows = [StageProgress(block(t), 4 * t, 0.5 * t, 30.0, "training") for t in range(1, blocks + 1)]
    return RunProgress(16, (*rows, StageProgress(CLASSIFIER, 16, 0.1, 0.0, "done")), 10.0, remaining, news, len(news))


def test_a_line_tells_steps_speed_loss_and_time_left():
    assert progress().line() == (
        "37% done: slowest block at step 4, fastest at step 8 of 16; 60 block-steps/s, loss 0.5 to 1, 1 min 15 s left"
    ), "the share of the blocks' steps, whatever the classifier has done, and rounded down"
    assert progress(blocks=1).line().startswith("25% done: step 4 of 16; 30 block-steps/s, loss 0.5, ")
    assert progress(remaining=7384).line().endswith("2 h 3 min left")
    assert progress(remaining=None).line().endswith("time left unknown")


def test_a_line_tells_that_a_run_starts():
    rows = tuple(StageProgress(block(t), 0, None, 0.0, "starting") for t in (1, 2))
    line = RunProgress(16, rows, 1.0, None, (), 0).line()
    assert line == "0% done: all blocks at step 0 of 16; starting: no round of block-steps is done yet"


def test_a_line_tells_no_speed_that_is_not_known():
    rows = (StageProgress(block(1), 4, 0.5, 0.0, "training"),)
    assert RunProgress(16, rows, 1.0, None, (), 0).line().endswith("step 4 of 16; loss 0.5, time left unknown")


def test_a_line_tells_of_blocks_that_are_equally_far():
    rows = tuple(StageProgress(block(t), 16, None, 0.0, "done") for t in (1, 2))
    line = RunProgress(16, rows, 1.0, 0.0, (), 0).line()
    assert line.startswith("100% done: all blocks at step 16 of 16; ")


def test_a_terminal_shows_a_row_per_stage():
    console = Console(file=io.StringIO(), width=100)
    console.print(view.progress_table(progress(news=("step 8: accuracy 97 %",))))
    text = console.file.getvalue()
    assert "block 1" in text
    assert "classifier" in text
    assert "step 8: accuracy 97 %" in text
    assert any(line.startswith("37% done: slowest block at step 4") for line in text.splitlines()), (
        "below the bar, not behind it"
    )
    console.print(view.progress_table(progress(blocks=100)))
    assert "block 77" not in console.file.getvalue(), "a hundred blocks are shown as a summary"


def test_logs_get_news_at_once_and_progress_now_and_then(monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    lines = view.LineView(console)
    for _ in range(5):
        lines.show(progress(news=("started",)))
    lines.show(progress(news=("started", "lost", "evaluated")))
    assert console.file.getvalue().count("block-steps/s") == 1
    assert console.file.getvalue().count("started") == 1
    assert console.file.getvalue().endswith("lost\nevaluated\n")
    lines.show(progress(news=("started again",)))
    assert console.file.getvalue().endswith("started again\n"), "a new coordinator tells anew"


def test_the_view_fits_the_output():
    with view.progress_view(Terminal(file=io.StringIO())) as plain:
        assert isinstance(plain, view.LineView)
    with view.progress_view(Terminal(file=io.StringIO(), force_terminal=True, width=100)) as live:
        live.say("starting")
        live.show(progress())
        assert isinstance(live, view.TableView)


def test_the_table_fits_a_narrow_terminal():
    console = Console(file=io.StringIO(), width=40)
    console.print(view.progress_table(progress(), 40))
    assert max(map(len, console.file.getvalue().splitlines())) <= 40
    assert "…" not in console.file.getvalue()
