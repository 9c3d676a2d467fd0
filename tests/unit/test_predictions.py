"""`predict`: one answer for each image, whatever is classified beside it, and a file that survives interruptions."""

import csv
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from noprop_dist import api
from noprop_dist.cli.app import main
from noprop_dist.config.layers import load_config
from noprop_dist.data.unlabelled import FewLines, find_samples
from noprop_dist.errors import UserError
from noprop_dist.inference import predictions
from noprop_dist.inference.predictions import answers
from noprop_dist.inference.predictions_file import PredictionsFile

TINY = ["engine.kind=sequential", "blocks.count=3", "blocks.network={kind: mlp, width: 16, depth: 1}"]
PIXELS = np.random.default_rng(0).integers(0, 256, (11, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    def run(name, *settings):
        folder = str(tmp_path_factory.mktemp(name) / "run")
        api.train(load_config("digits", None, [*TINY, "training.max_steps=12", *settings]), folder)
        return folder

    return {"run": run("one"), "other": run("other", "seed=1")}


@pytest.fixture
def run(trained):
    return api.open_run(trained["run"], "cpu")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Eleven images in a folder and one below it, in batches of four."""
    monkeypatch.setattr(predictions, "BATCH", 4)
    (tmp_path / "images" / "more").mkdir(parents=True)
    for number, pixels in enumerate(PIXELS):
        place = "more" if number > 8 else "."
        Image.fromarray(pixels).save(tmp_path / "images" / place / f"{number:02}.png")
    return tmp_path / "images"


def rows(file: Path):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def noprop(*arguments, code=2):
    with pytest.raises(SystemExit) as end:
        main([str(each) for each in arguments])
    assert end.value.code == code


def test_a_file_of_predictions_says_what_predict_says_of_each_image(run, images, tmp_path):
    written = api.predict_into(run, [images], tmp_path / "out.csv", "stochastic", 3)
    alone = [api.predict(run, [file], "stochastic", 3)[0] for file in sorted(images.rglob("*.png"))]
    table = rows(tmp_path / "out.csv")
    assert (written.samples, written.left_out) == (11, 0)
    assert [row["image"] for row in table] == [each.image for each in alone]
    assert [row["class"] for row in table] == [each.class_name for each in alone]
    for row, each in zip(table, alone, strict=True):
        p = [float(row[f"p_{name}"]) for name in run.plan.facts.class_names]
        assert float(row["probability"]) == max(p) == pytest.approx(each.probability, abs=2e-6)
        assert sum(p) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
@pytest.mark.parametrize("batch", [1, 3, 11])
def test_an_answer_does_not_depend_on_the_batch(run, images, sampler, batch):
    source = find_samples([images], run.plan.facts, "run", FewLines(print))
    whole, parts = (
        np.concatenate([each.probabilities for each in answers(run.network, source, sampler, 2, batch=size)])
        for size in (11, batch)
    )
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_parquet_holds_the_table_of_csv(run, images, tmp_path):
    for name in ("out.csv", "out.parquet"):
        api.predict_into(run, [images], tmp_path / name)
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{**row, **{k: f"{v:.6g}" for k, v in row.items() if isinstance(v, float)}} for row in table] == rows(
        tmp_path / "out.csv"
    )


class Interruption(Exception):
    pass


def interrupt(run, images, out, after=5):
    def stop(done, _):
        if done > after:
            raise Interruption

    with pytest.raises(Interruption):
        api.predict_into(run, [images], out, on_progress=stop)
    assert not out.exists()


def test_an_interrupted_run_goes_on_where_it_stopped(run, images, tmp_path):
    api.predict_into(run, [images], tmp_path / "whole.csv")
    out, seen = tmp_path / "out.csv", []
    interrupt(run, images, out)
    with (tmp_path / "out.csv.partial").open("ab") as partial:
        partial.write(b"a batch that was not written to its end" * 2)
    api.predict_into(run, [images], out, on_progress=lambda done, of: seen.append(done))
    assert seen == [8, 11]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "out.csv.partial").exists()


def test_what_is_whole_is_not_computed_again(run, images, tmp_path):
    out = tmp_path / "out.csv"
    api.predict_into(run, [images], out)
    before = out.stat().st_mtime_ns
    written = api.predict_into(run, [images], out, on_progress=lambda *_: pytest.fail("it is there"))
    assert (written.samples, out.stat().st_mtime_ns) == (11, before)


@pytest.mark.parametrize("interrupted", [True, False])
def test_predictions_of_another_run_sampler_or_images_are_left_alone(trained, run, images, tmp_path, interrupted):
    out = tmp_path / "out.csv"
    if interrupted:
        interrupt(run, images, out)
    else:
        api.predict_into(run, [images], out)
    before = {file: file.read_bytes() for file in tmp_path.glob("out*")}
    other = api.open_run(trained["other"], "cpu")
    with pytest.raises(UserError, match=r"out.csv(.partial)?: holds predictions with another network"):
        api.predict_into(other, [images], out)
    with pytest.raises(UserError, match="another sampler .mean, and not stochastic.; give another file"):
        api.predict_into(run, [images], out, "stochastic")
    with pytest.raises(UserError, match="another number of passes"):
        api.predict_into(run, [images], out, passes=2)
    with pytest.raises(UserError, match="another number of images .11, and not 2."):
        api.predict_into(run, [images / "more"], out)
    os.utime(images / "03.png", ns=(1, 1))
    with pytest.raises(UserError, match="another fingerprint of the images"):
        api.predict_into(run, [images], out)
    assert {file: file.read_bytes() for file in tmp_path.glob("out*")} == before


@pytest.mark.parametrize("name", ["out.csv", "out.csv.json", "out.csv.partial", "out.csv.new", "out.csv.json.new"])
@pytest.mark.parametrize("content", ["", "mine", '{"of": {}}', "[1]"])
def test_files_of_others_are_not_overwritten(run, images, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: is there already"):
        api.predict_into(run, [images], tmp_path / "out.csv")
    assert (tmp_path / name).read_text() == content
    assert [file.name for file in tmp_path.iterdir() if file != images] == [name]


def test_one_process_at_a_time_writes_a_file(run, images, tmp_path):
    file = PredictionsFile(tmp_path / "out.csv", {}, ["a", "b"])
    refused = pytest.raises(UserError, match="another process is writing")
    with file.journal(1, 9, print), refused, file.journal(1, 9, print):
        pass


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 1.5])
def test_a_file_that_was_cut_or_edited_is_set_aside_and_written_anew(run, images, tmp_path, ending, kept):
    out, told = tmp_path / f"out.{ending}", []
    api.predict_into(run, [images], out)
    whole = out.read_bytes()
    for _ in range(2):
        out.write_bytes((2 * whole)[: int(kept * len(whole))])
        api.predict_into(run, [images], out, warn=told.append)
        assert out.read_bytes() == whole
    (aside,) = tmp_path.glob("out*.changed-*")
    assert aside.read_bytes() == (2 * whole)[: int(kept * len(whole))]
    assert told == [f"{out}: was changed since it was written; it is {aside.name} now, and is written anew"] * 2


def test_a_partial_file_with_more_rows_than_samples_is_cut(run, images, tmp_path):
    api.predict_into(run, [images], tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    interrupt(run, images, out)
    partial = tmp_path / "out.csv.partial"
    partial.write_bytes(partial.read_bytes() * 3)
    with pytest.warns(UserWarning, match="is damaged after 8 samples; it goes on from there") as warned:
        api.predict_into(run, [images], out)
    assert [each.filename for each in warned] == [__file__]
    assert len(rows(out)) == 11


@pytest.mark.parametrize("kept", [0, 4])
@pytest.mark.parametrize("how", ["zeros", "a row that was edited", "a batch that is gone"])
def test_a_damaged_partial_file_is_cut_back_to_its_last_good_batch(run, images, tmp_path, how, kept):
    api.predict_into(run, [images], tmp_path / "whole.csv")
    out, seen, told = tmp_path / "out.csv", [], []
    interrupt(run, images, out)
    partial = tmp_path / "out.csv.partial"
    content, batch = partial.read_bytes(), 4 * 4 * len(run.plan.facts.class_names) + 32
    good, rest = content[: batch * kept // 4], content[batch * kept // 4 :]
    swapped, zeros = rest[4:8] + rest[:4] + rest[8:], bytes(len(rest))
    damaged = {"zeros": zeros, "a row that was edited": swapped, "a batch that is gone": rest[batch:] + zeros[:batch]}
    partial.write_bytes(good + damaged[how])
    api.predict_into(run, [images], out, on_progress=lambda done, _: seen.append(done), warn=told.append)
    assert seen[0] == kept
    assert told == [f"{partial}: is damaged after {kept} samples; it goes on from there"]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@contextmanager
def files_of_at_most(size):
    """A limit of the system, at which a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_costs_no_batch_that_was_written(run, images, tmp_path):
    out, seen = tmp_path / "out.csv", []
    bytes_of_a_row = 4 * len(run.plan.facts.class_names)
    (tmp_path / "out.csv").unlink(missing_ok=True)
    interrupt(run, images, out, after=3)  # the small files that go with it are there
    with files_of_at_most(9 * bytes_of_a_row + 2 * 32), pytest.raises(OSError, match="too large"):
        api.predict_into(run, [images], out)
    assert (tmp_path / "out.csv.partial").stat().st_size == 8 * bytes_of_a_row + 2 * 32
    api.predict_into(run, [images], out, on_progress=lambda done, _: seen.append(done))
    assert seen == [8, 11]


def test_damaged_images_are_told_counted_and_left_out(trained, images, tmp_path, capsys):
    for number in range(8):
        (images / f"0{number}.png").write_bytes(b"no image")
    command = ("predict", trained["run"], images, "--out", tmp_path / "out.csv")
    for _ in range(2):
        noprop(*command)
        told = capsys.readouterr()
        assert told.out == f"{tmp_path}/out.csv: 3 images\n"
        assert f"8 of 11 images cannot be read, and {tmp_path}/out.csv is written without them" in told.err
    assert len(rows(tmp_path / "out.csv")) == 3
    about = json.loads((tmp_path / "out.csv.json").read_text())
    assert [Path(name).stem for name in about["left_out"]] == [f"0{number}" for number in range(8)]


@pytest.mark.parametrize("json_", [True, False])
def test_images_beside_damaged_ones_are_printed(trained, images, capsys, json_):
    (images / "03.png").write_bytes(b"no image")
    (images / "05.png").write_bytes(b"no image")
    noprop("predict", trained["run"], images, *["--json"] * json_)
    told = capsys.readouterr()
    assert len(json.loads(told.out) if json_ else told.out.splitlines()) == 9
    assert told.err.count("is no readable image") == 2
    assert told.err.endswith("2 of 11 images cannot be read\n")
    with pytest.raises(UserError, match="03.png: is no readable image"):
        api.predict(trained["run"], [images])


def test_of_many_damaged_images_a_few_are_named(run, images, tmp_path):
    for number in range(8):
        (images / f"0{number}.png").write_bytes(b"no image")
    told = []
    api.predict_into(run, [images], tmp_path / "out.csv", warn=told.append)
    assert [": is no readable image" in line for line in told] == [True] * 5 + [False]
    assert told[-1] == "3 images more: cannot be read"


def test_of_many_pictures_in_colour_a_few_are_named(run, tmp_path):
    for number in range(7):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    told = []
    api.predict_into(run, [tmp_path], tmp_path / "out.csv", warn=told.append)
    assert told[-1] == "2 images more: is in colour, and is read as grey"
    assert len(told) == 6


def test_a_folder_is_searched_at_any_depth_without_what_is_hidden(run, images, tmp_path):
    (images / ".cache").mkdir()
    Image.fromarray(PIXELS[0]).save(images / ".cache" / "x.png")
    (images / "notes.txt").write_text("no image")
    told = []
    found = api.predict(run, [images], warn=told.append)
    assert [Path(each.image).name for each in found] == [f"{number:02}.png" for number in range(11)]
    assert told == [f"{images}: left out are files, 1 hidden (.cache/x.png) and 1 that are no images (notes.txt)"]


def test_arrays_and_packed_data_are_classified_as_their_images_are(run, images, tmp_path):
    expected = [(each.class_name, each.probability) for each in api.predict(run, [images])]
    np.savez(tmp_path / "plain.npz", x=PIXELS, y=np.arange(11))
    np.savez(tmp_path / "split.npz", x_train=PIXELS[::-1], x_test=PIXELS)
    np.savez(tmp_path / "alone.npz", whatever=PIXELS)
    for name in ("plain", "split", "alone"):
        found = api.predict(run, [tmp_path / f"{name}.npz"])
        assert [(each.class_name, each.probability) for each in found] == expected
        assert [each.image for each in found] == [str(number) for number in range(11)]
    api.pack(str(tmp_path / "packed"), load_config("digits", None, []).data, lambda *_: None)
    written = api.predict_into(run, [tmp_path / "packed"], tmp_path / "out.csv")
    assert written.samples == run.plan.facts.samples["test"]
    first = api.predict(run, [tmp_path / "packed"])[0]
    assert rows(tmp_path / "out.csv")[0]["class"] == first.class_name


def test_vectors_are_classified_from_arrays_alone(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5))
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.resize(np.arange(3), 60))
    settings = ["data.name=npz", f"data.root={tmp_path}/d.npz", "training.max_steps=4", "training.batch_size=20"]
    api.train(load_config(None, None, [*TINY, *settings]), str(tmp_path / "run"))
    run = api.open_run(str(tmp_path / "run"), "cpu")
    np.savez(tmp_path / "new.npz", x=x[:7])
    assert len(api.predict(run, [tmp_path / "new.npz"])) == 7
    with pytest.raises(UserError, match="was trained on samples of shape .5,., not on images"):
        api.predict(run, [tmp_path / "x.png"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS[:, :4]}, r"holds uint8 samples of shape .4, 8., and .* was trained on uint8 samples of shape"),
        ({"x": PIXELS / 255.0}, r"holds float64 samples of shape"),
        ({"a": PIXELS, "b": PIXELS}, "has neither an array x nor x_test; it holds a, b"),
        ({}, "has neither an array x nor x_test; it holds nothing"),
        ({"x": PIXELS[:0]}, "x has no samples"),
        ({"x": PIXELS.astype(int)}, "uint8 images or floats"),
    ],
)
def test_arrays_that_the_network_does_not_take_are_refused(run, tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match=message):
        api.predict(run, [tmp_path / "d.npz"])


def test_places_that_hold_nothing_are_refused(run, images, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"PK")
    np.savez(tmp_path / "d.npz", x=PIXELS)
    for places, message in (
        (["none.png"], "none.png: there is no such file"),
        (["none.npz"], "none.npz: there is no such file"),
        (["empty"], "empty: holds no images"),
        (["bad.npz"], "bad.npz: is no complete .npz file"),
        (["d.npz", "images"], "d.npz: holds arrays, which are classified by themselves"),
    ):
        with pytest.raises(UserError, match=message):
            api.predict(run, [tmp_path / place for place in places])


@pytest.mark.parametrize("images", ["", [""], ["a.png", ""]])
def test_an_empty_path_is_not_the_working_directory(run, tmp_path, monkeypatch, images, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS[0]).save("a.png")
    with pytest.raises(UserError, match="a path of a file or folder is empty"):
        api.predict(run, images)
    with pytest.raises(UserError, match="a path of a file or folder is empty"):
        api.predict_into(run, images, "out.csv")
    noprop("predict", run.directory, *([images] if images == "" else images))
    assert "a path of a file or folder is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.txt", "out.txt: must end in .csv or .parquet"),
        ("", "a path of a file or folder is empty"),
        (".", "out=.: must end in"),
        ("/", "out=/: must end in"),
        ("folder.csv", "folder.csv: is a folder"),
        ("none/out.csv", "there is no folder"),
        ("file/out.csv", "there is no folder"),
        ("s3://b/out.csv", "URI"),
    ],
)
def test_a_place_that_takes_no_predictions_is_refused(run, images, tmp_path, monkeypatch, out, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        api.predict_into(run, [images], out)


def test_an_interruption_says_how_to_go_on(trained, images, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "predict_into", interrupted)
    noprop("predict", trained["run"], images, "--out", tmp_path / "out.csv", code=130)
    assert f"interrupted; the same command goes on with {tmp_path}/out.csv" in capsys.readouterr().err


def test_predicting_is_measured_against_bare_forward_passes(trained, images, capsys):
    noprop("bench", "predict", trained["run"], images, "--repeats", "2", "--json", code=0)
    result = json.loads(capsys.readouterr().out)
    assert [row["side"] for row in result["rows"]] == ["predict --out", "bare forward passes"]
    assert result["ratio"] == result["rows"][0]["median"] / result["rows"][1]["median"]


def test_progress_is_lines_where_there_is_no_terminal(trained, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("noprop_dist.cli.predict.LINE_SECONDS", 0)
    noprop("predict", trained["run"], images, "--out", tmp_path / "out.csv", "--json", code=0)
    told = capsys.readouterr()
    assert json.loads(told.out) == {"out": f"{tmp_path}/out.csv", "images": 11, "left_out": 0}
    assert [line.partition(",")[0] for line in told.err.splitlines()] == [f"{n} of 11 images" for n in (0, 4, 8, 11)]
