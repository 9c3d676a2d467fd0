"""The commands as a user types them: results, exit codes, and one clear sentence for every mistake."""

import json
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from noprop_dist.api import default_run_dir
from noprop_dist.cli.app import main
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.load import load_data

SMALL = ["--set", "blocks.count=3", "--set", "blocks.network={kind: mlp, width: 16, depth: 1}",
         "--set", "training.max_steps=12", "--set", "metrics.port=0", "--engine", "sequential"]  # fmt: skip


@pytest.fixture
def noprop(capsys):
    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert end.value.code == code, captured.err
        assert "Traceback" not in captured.err
        return captured.out if code == 0 else captured.err

    return run


@pytest.fixture
def run_dir(copied_run):
    return copied_run().root


def test_train_prints_the_run_directory(noprop, tmp_path):
    assert noprop("train", *SMALL, "--run-dir", tmp_path / "run").splitlines()[-1] == str(tmp_path / "run")


def test_a_run_directory_is_made_up_where_none_is_given(noprop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert noprop("train", *SMALL).startswith(str(tmp_path / "runs" / "digits-"))
    assert default_run_dir(RunConfig()) != default_run_dir(RunConfig()), "two may start in the same second"


def test_inspect_tells_configuration_steps_metrics_and_fingerprints(noprop, run_dir):
    whole = json.loads(noprop("inspect", run_dir, "--json"))
    assert [block["block"] for block in whole["blocks"]] == [1, 2, 3]
    assert {block["step"] for block in whole["blocks"]} == {12} == {whole["classifier"]["step"]}
    assert all(len(block["sha256"]) == 64 for block in whole["blocks"])
    assert whole["config"]["training"]["max_steps"] == 12
    assert whole["metrics"]["stages"]["block 2"]["step"] == 12
    text = noprop("inspect", run_dir)
    assert "max_steps: 12" in text
    assert "checkpoint of step 12" in text


def test_evaluate_prints_what_was_asked_for(noprop, run_dir):
    whole = json.loads(noprop("evaluate", run_dir, "--sampler", "stochastic", "--passes", 2, "--per-block", "--json"))
    assert 0 <= whole["accuracy"] <= 1
    assert 0 <= whole["nearest_embedding_accuracy"] <= 1
    assert (whole["sampler"], whole["passes"], whole["samples"]) == ("stochastic", 2, 359)
    assert [set(block) for block in whole["per_block"]] == [{"block", "after_block", "prediction", "alone"}] * 3
    assert json.loads(noprop("evaluate", run_dir, "--json")) == json.loads(noprop("evaluate", run_dir, "--json"))
    text = noprop("evaluate", run_dir, "--per-block")
    assert "test samples, mean sampler, 1 pass(es)" in text.replace("\n", " ")
    assert "after 12 steps" in text
    assert whole["step"] == 12
    assert "block alone" in text


def test_predict_tells_class_and_probability_of_images(noprop, run_dir, tmp_path):
    test = load_data(__import__("noprop_dist").config.RunConfig().data).held_out.test
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(test.inputs[number, 0]).save(files[-1])
    rows = json.loads(noprop("predict", run_dir, *files, "--json"))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert all(row["class"] in "0123456789" and 0 < row["probability"] <= 1 for row in rows)
    assert rows[1:2] == json.loads(noprop("predict", run_dir, files[1], "--json")), "images do not meet each other"
    assert "0.png: " in noprop("predict", run_dir, files[0])


def test_predict_tells_what_of_a_picture_it_does_not_look_at(run_dir, tmp_path, capsys):
    first, other = (Image.new("RGBA", (8, 8), (value, 0, 0, value)) for value in (10, 200))
    first.save(tmp_path / "film.png", save_all=True, append_images=[other])
    Image.new("L", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(SystemExit):
        main(["predict", run_dir, str(tmp_path / "film.png"), str(tmp_path / "plain.png")])
    told = capsys.readouterr().err
    for loss in ("is in colour, and is read as grey", "is transparent, which is left out", "holds several pictures"):
        assert f"film.png: {loss}" in told
    assert "plain.png" not in told


def test_report_writes_a_page_that_needs_nothing_else_and_plots(noprop, run_dir, tmp_path):
    assert noprop("report", run_dir).strip() == f"{run_dir}/report.html"
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page
    assert "<script" not in page
    plots = sorted(file.stem for file in (tmp_path / "run" / "plots").glob("*.png"))
    assert plots == ["accuracy", "denoising", "loss", "parts", "path", "terms"]


@pytest.mark.usefixtures("undrawn")
def test_a_report_without_the_data_says_what_it_left_out(noprop, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x_train=random.normal(size=(300, 6)), y_train=np.resize(np.arange(3), 300))
    data = ["--set", "data.name=npz", "--set", f"data.root={tmp_path / 'd.npz'}"]
    run = noprop("train", *SMALL, *data, "--run-dir", tmp_path / "run").splitlines()[-1]
    assert "left out" not in noprop("report", run)
    (tmp_path / "d.npz").unlink()
    assert "left out what needs the network and its data" in noprop("report", run)
    message = noprop("predict", run, tmp_path / "digit.png", code=2)
    assert "was trained on samples of shape (6,), not on images" in message


def test_resume_of_a_finished_run_changes_nothing(noprop, run_dir):
    before = noprop("inspect", run_dir, "--json")
    assert noprop("resume", run_dir).strip() == run_dir
    assert noprop("inspect", run_dir, "--json") == before


def test_plan_shows_placement_memory_and_messages_and_starts_nothing(noprop, tmp_path):
    asked = ("--set", "engine.workers=5", "--set", "engine.sampling=coordinator")
    text = noprop("plan", *asked, "--run-dir", tmp_path / "run")
    assert "10 block(s) on 5 worker(s)" in text
    assert "z is drawn by the coordinator, as asked for" in text
    assert "bytes per block-step" in text
    assert "arithmetic: float32, channels last" in text
    assert "4,000 block-steps" in text.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    assert "one after another in one process" in noprop("plan", "--engine", "sequential")


def test_plan_of_the_baseline_describes_its_processes_and_nothing_of_noprop(noprop):
    text = noprop("plan", "--method", "backprop", "--set", "engine.workers=4", "--set", "training.batch_size=128")
    assert "Ray Train, method=backprop: 4 process(es), each with" in text
    assert "32 samples of every batch in each process" in text
    assert "for the whole network" in text
    assert "trained as one" in text
    for word in ("evaluator", "z is drawn", "worker", "block-step", "alpha_bar"):
        assert word not in text


def test_a_run_of_single_blocks_can_be_reported(noprop, tmp_path):
    run = noprop("train", *SMALL, "--set", "blocks.only=[2]", "--run-dir", tmp_path / "run").splitlines()[-1]
    assert noprop("report", run).strip().endswith("report.html")
    assert "no weights of block(s) 1, 3" in noprop("evaluate", run, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "minst"], "preset minst: no such preset"),
        (["train", "--set", "training.batch_sise=3"], "did you mean batch_size?"),
        (["train", "--set", "training.batch_size=5000"], "larger than the training set"),
        (["train", "--set", "schedule={kind: list, alpha_bar: [0.9, 0.1]}", "--set", "blocks.count=1"], "direction"),
        (["train", "--engine", "horovod"], "engine.kind: 'horovod' is not allowed"),
        (["train", "--set", "data={name: npz, root: none.npz}"], "there is no such file"),
        (["train", "--set", "blocks.network={kind: custom, path: 'nosuch:Net'}"], "cannot be imported"),
        (["train", "--set", "engine.device=cuda", "--engine", "sequential"], "no GPU"),
        (["train", "--address", "127.0.0.1:1"], "engine.address=127.0.0.1:1: nobody answers there"),
        (["train", "--address", "nonsense"], "write HOST:PORT"),
        (["train", "--config", "nope.yaml"], "--config nope.yaml: cannot be read: there is no such file or folder"),
        (["train", "--run-dir", "s3://"], "s3://: is no path or URI"),
        (["plan", "--set", "blocks.networks={1:{kind:mlp}}"], "paper, small-conv, mlp, vit, torchvision, custom"),
        (["plan", "--set", "blocks.networks={1:{kind:mlp}}"], "in YAML a space follows the colon"),
        (["plan", "--set", "blocks.network.kind=mpl"], "torchvision, custom, given; did you mean mlp?"),
        (
            ["plan", "--set", "blocks.network={kind: torchvision, backbone: resnet19}"],
            "no classification network 'resnet19'; did you mean resnet1",
        ),
        (["train", "--address", "127.0.0.1:port"], "write HOST:PORT"),
        (["plan", "--set", "blocks.count=0"], "blocks.count: 0 is not allowed"),
        (["evaluate", "nowhere"], "holds no run"),
        (["resume", "nowhere"], "holds no run"),
        (["inspect", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["evaluate", "nowhere", "--sampler", "random"], "--sampler random: allowed are stochastic and mean"),
        (["evaluate", "nowhere", "--passes", "0"], "--passes 0: must be at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence_with_exit_code_2(noprop, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    error = noprop(*arguments, code=2)
    assert message in error
    assert error.strip().splitlines()[-1].startswith("noprop-dist: ")
    assert error.count("noprop-dist: ") == 1
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize("greeting", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_an_address_where_something_else_answers_is_told_at_once(noprop, tmp_path, greeting):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(greeting)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        message = noprop("train", "--address", address, "--run-dir", tmp_path / "run", code=2)
    assert f"engine.address={address}: what answers there is no Ray cluster" in message


def test_mistakes_with_a_run_directory_overwrite_nothing(noprop, run_dir, tmp_path):
    before = noprop("inspect", run_dir, "--json")
    again = noprop("train", *SMALL, "--run-dir", run_dir, code=2)
    assert f"already holds a run; `noprop-dist resume {run_dir}`" in again
    assert "is no readable image" in noprop("predict", run_dir, f"{run_dir}/config.yaml", code=2)
    assert "already holds a run" in noprop("plan", "--run-dir", run_dir, code=2)
    (tmp_path / "file").write_text("")
    assert "file is a file; a run" in noprop("train", *SMALL, "--run-dir", tmp_path / "file" / "run", code=2)
    assert noprop("inspect", run_dir, "--json") == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=3", "seed is 0, not 3"),
        ("training.max_steps=13", "training.max_steps is 12, not 13"),
        ("engine.threads_per_worker=2", "engine.threads_per_worker is 1, not 2"),
        ("engine.device=cpu", "engine.device is auto, not cpu"),
        ("blocks.only=1-2", "blocks.only is null, not [1, 2]"),
        ("engine.round_steps=3", None),
        ("checkpoint.every_steps=4", None),
        ("data.root=elsewhere", None),
    ],
)
def test_the_same_run_goes_on_and_another_is_refused(noprop, run_dir, setting, message):
    again = ("train", *SMALL, "--run-dir", run_dir, "--or-resume", "--set", setting)
    if message is None:
        assert noprop(*again).strip() == run_dir
    else:
        assert f"holds a run whose {message}; give another folder" in noprop(*again, code=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=3", "seed=3: this run has seed=0, which fixes the bits of its result"),
        ("engine.threads_per_worker=2", "this run has engine.threads_per_worker=1, which fixes the bits of its result"),
        ("engine.round_steps=3", None),
        ("metrics.port=null", None),
        ("classifier.learning_rate=0.1", None),
    ],
)
def test_resume_takes_what_changes_no_bits_and_the_training_of_single_stages(noprop, run_dir, setting, message):
    if message is None:
        assert noprop("resume", run_dir, "--set", setting).strip() == run_dir
    else:
        assert message in noprop("resume", run_dir, "--set", setting, code=2)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["resume", "--set", "metrics.port=7"], "metrics.port: no effect with engine.kind=sequential"),
        (["resume", "--data-root", "x"], "data.root: no effect with data.name=digits"),
        (["evaluate", "--data-root", "x"], "data.root: no effect with data.name=digits"),
        (["report", "--data-root", "x"], "data.root: no effect with data.name=digits"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_what_does_nothing_for_a_run_is_told(run_dir, capsys, command, line):
    with pytest.raises(SystemExit) as end:
        main([*command, run_dir])
    assert (end.value.code, line in capsys.readouterr().err.replace("\n", " ")) == (0, True)


def test_what_pack_refuses_has_no_progress(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["pack", str(tmp_path)])
    assert capsys.readouterr().err.count("\n") == 1


def test_what_does_nothing_for_pack_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["pack", str(tmp_path / "out"), "--set", "data.validation_fraction=0.2", "--set", "training.epochs=3"])
    told = capsys.readouterr().err
    assert "--set training.epochs=3: no effect on pack, which reads data.* alone" in told
    assert "validation_fraction" not in told


def test_a_run_goes_on_with_its_own_data_wherever_that_lies(noprop, tmp_path):
    random = np.random.default_rng(0)
    for name in ("here", "other"):
        np.savez(tmp_path / f"{name}.npz", x_train=random.normal(size=(300, 6)), y_train=np.resize(np.arange(3), 300))
    (tmp_path / "there.npz").write_bytes((tmp_path / "here.npz").read_bytes())
    again = ("train", *SMALL, "--run-dir", tmp_path / "run", "--or-resume", "--set")
    noprop(*again, f"data={{name: npz, root: {tmp_path}/here.npz}}")
    for manifest in (tmp_path / "run/checkpoints").glob("*/manifest.json"):
        manifest.unlink()  # so that the run is not finished
    message = noprop(*again, f"data={{name: npz, root: {tmp_path}/other.npz}}", code=2)
    assert f"was trained on other data than data.root={tmp_path}/other.npz holds" in message
    assert noprop(*again, f"data={{name: npz, root: {tmp_path}/there.npz}}").strip() == str(tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_data_that_has_moved_is_found_by_an_option(noprop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("here.npz", x_train=np.random.default_rng(0).normal(size=(300, 6)), y_train=np.resize(np.arange(3), 300))
    run = tmp_path / noprop("train", *SMALL, "--run-dir", "run", "--set", "data={name: npz, root: here.npz}").strip()
    (tmp_path / "here.npz").rename(tmp_path / "there: 1.npz")
    assert "--data-root (data_root=…) says where to" in noprop("evaluate", run, code=2)
    noprop("evaluate", run, "--data-root", "there: 1.npz")
    assert "left out" not in noprop("report", run, "--data-root", "there: 1.npz")
    for manifest in (run / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()  # so that the run is not finished
    assert noprop("resume", run, "--data-root", "there: 1.npz").strip() == str(run)


def test_ctrl_c_says_how_to_go_on_and_resume_ends_with_the_same_bits(noprop, tmp_path, monkeypatch):
    from noprop_dist.engines import sequential

    steps = [*SMALL, "--set", "checkpoint.every_steps=4"]
    whole = noprop("train", *steps, "--run-dir", tmp_path / "whole").splitlines()[-1]
    run, rounds, train_round = tmp_path / "run", [], sequential.train_round

    def interrupted(trainer, work, stopped):
        rounds.append(work)
        if len(rounds) > 6:
            raise KeyboardInterrupt
        return train_round(trainer, work, stopped)

    monkeypatch.setattr(sequential, "train_round", interrupted)
    message = noprop("train", *steps, "--run-dir", run, code=130).replace("\n", " ")
    assert f"stopped; `noprop-dist resume {run}`" in message
    monkeypatch.undo()
    noprop("resume", run, "--set", "engine.round_steps=3")
    one, other = (json.loads(noprop("inspect", each, "--json")) for each in (whole, run))
    assert [block["sha256"] for block in one["blocks"]] == [block["sha256"] for block in other["blocks"]]


def test_a_network_trained_on_floats_takes_no_picture_files(noprop, tmp_path):
    np.savez(
        tmp_path / "d.npz", x_train=np.random.default_rng(0).random((300, 1, 8, 8)), y_train=np.resize([0, 1], 300)
    )
    data = ["--set", "data.name=npz", "--set", f"data.root={tmp_path / 'd.npz'}"]
    run = noprop("train", *SMALL, *data, "--run-dir", tmp_path / "run").splitlines()[-1]
    assert "was trained on float32 pixels" in noprop("predict", run, tmp_path / "x.png", code=2)


def test_a_finished_run_whose_weights_are_damaged_is_trained_again_and_has_its_figures(noprop, run_dir, tmp_path):
    before = noprop("inspect", run_dir, "--json")
    weights = tmp_path / "run/checkpoints/step-00000012/block-02.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "is damaged" in noprop("evaluate", run_dir, code=2)
    noprop("resume", run_dir)
    assert json.loads(noprop("inspect", run_dir, "--json"))["blocks"] == json.loads(before)["blocks"]
    assert "%" in noprop("evaluate", run_dir)


@pytest.mark.parametrize("name", ["loop", "x" * 300])
def test_a_run_directory_that_no_path_leads_to_is_told(noprop, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for command in ("evaluate", "inspect", "resume"):
        assert "noprop-dist: " in noprop(command, name, code=2)
