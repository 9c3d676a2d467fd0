"""Which worker holds which blocks: faster, idle and returning devices get their share; nothing moves for nothing."""

import random
import time

from noprop_dist.engines.core.assignment import Load, Move, best_move, best_moves, worker_for


def load(worker, *seconds, slowness=1.0, free=None, first=1):
    return Load(worker, {first + k: each for k, each in enumerate(seconds)}, slowness, free)


def test_an_idle_worker_is_given_a_block():
    assert best_move([load("a", 60, 60), load("b")]) in (Move(1, "a", "b"), Move(2, "a", "b"))


def test_a_last_block_and_small_differences_stay_where_they_are():
    assert best_move([load("a", 60), load("b")]) is None
    assert best_move([load("a", 20, 20, 20), load("b", 20, 20)]) is None
    assert best_move([load("a", 4, 4), load("b")]) is None, "it would not be worth the new start"
    assert best_move([load("a", 60, 60)]) is None


def test_a_faster_worker_takes_over_from_a_slower_one():
    slow, fast = load("slow", 200, 200, 200, slowness=1.5), load("fast", 100, 100, 100, slowness=0.75, first=4)
    assert best_move([slow, fast]).target == "fast"


def test_a_worker_without_room_is_given_nothing():
    assert best_move([load("a", 60, 60), load("b", free=0)]) is None


def test_moves_come_to_an_end_and_never_make_the_run_longer():
    generator = random.Random(0)
    for _ in range(50):
        blocks = {t: generator.uniform(1, 500) for t in range(1, 21)}
        where = {t: generator.choice("abcd") for t in blocks}
        longest = []
        for _ in range(100):
            loads = [Load(w, {t: blocks[t] for t in blocks if where[t] == w}, 1.0, None) for w in "abcd"]
            longest.append(max(each.total_seconds for each in loads))
            if (move := best_move(loads)) is None:
                break
            where[move.block] = move.target
        assert move is None
        assert longest == sorted(longest, reverse=True)


def test_a_worker_that_has_everything_gives_to_all_that_have_nothing():
    """Blocks of thirty-two late workers lay on the first one, and stayed: what one move gains seemed too little."""
    loads = [load("w0", *[116.0] * 32), *(load(f"w{k}") for k in range(1, 32))]
    moves = best_moves(loads)
    assert {move.target for move in moves} == {f"w{k}" for k in range(1, 32)}
    assert len({move.block for move in moves}) == len(moves) == 31


def best_of_all(loads):
    """The best move, looked for without any shortcut."""
    source = max(loads, key=lambda each: each.total_seconds)
    best, best_worth = None, (10.0, 0.0)
    for target in (each for each in loads if each is not source and each.has_room):
        for stage, seconds in source.seconds_left.items():
            there = target.total_seconds + seconds * target.slowness / source.slowness
            gain = source.total_seconds - max(there, source.total_seconds - seconds)
            if gain > 0.15 * seconds and (gain, -there) > best_worth:
                best, best_worth = Move(stage, source.worker, target.worker), (gain, -there)
    return best


def test_workers_that_are_alike_are_looked_at_once_and_the_move_is_the_same():
    generator = random.Random(1)
    for _ in range(300):
        loads = [
            load(f"w{k}", *generator.choices((30.0, 60.0, 75.0), k=generator.randrange(4)), first=10 * k,
                 slowness=generator.choice((0.5, 1.0, 1.5)), free=generator.choice((None, 0, 1)))
            for k in range(8)
        ]  # fmt: skip
        assert best_move(loads) == best_of_all(loads)


def test_a_thousand_workers_that_come_at_once_get_their_blocks_in_a_moment():
    """The loop stood still for minutes: every idle worker was tried for every block, for each of the moves."""
    loads = [load(f"w{k}", *[100.0] * 100, first=100 * k) for k in range(10)]
    began = time.process_time()
    moves = best_moves([*loads, *(load(f"w{k}") for k in range(10, 1000))])
    assert len({move.target for move in moves}) == 990
    assert time.process_time() - began < 30


def test_moves_that_are_planned_together_leave_room_to_those_before():
    moves = best_moves([load("a", 60, 60, 60, 60), load("b", free=1), load("c", free=None)])
    assert sorted(move.target for move in moves) == ["b", "c"]


def test_a_block_waits_for_its_own_worker_while_that_is_coming():
    loads = {"b": load("b", 10)}
    assert worker_for("a", loads, home_is_coming=True, waiting_for={"a": 1}) is None
    assert worker_for("a", loads, home_is_coming=False, waiting_for={"a": 1}) == "b"
    assert worker_for("b", loads, home_is_coming=True, waiting_for={"b": 1}) == "b"


def test_in_waves_a_full_workers_block_goes_to_one_that_has_nothing_waiting():
    loads = {"a": load("a", 10, free=0), "b": load("b", free=1, first=5)}
    assert worker_for("a", loads, home_is_coming=True, waiting_for={"a": 2}) == "b"
    assert worker_for("a", loads, home_is_coming=True, waiting_for={"a": 2, "b": 1}) is None
