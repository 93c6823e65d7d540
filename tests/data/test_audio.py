"""Signals as data sets: synthetic notes, recordings in folders, time series; splits, levels, errors."""

import builtins

import numpy as np
import pytest
import torch

from fastgen.data import load_audio, loader, mu_law_encode, sweep, write_wav
from fastgen.data.audio import resample
from fastgen.data.encoding import decode
from fastgen.data.tones import CLASS_NAMES, N_SOUNDS, draw_tones
from fastgen.likelihoods import levels_to_signal

SHORT = {"length": 64, "sample_rate": 8000}


def keys(dataset):
    return [piece.numpy().tobytes() for piece in dataset.tensors()[0]]


# tones


def test_tones_are_a_function_of_their_index():
    every = np.arange(12)
    sounds = draw_tones(every, 4000, 8000, seed=0)
    assert sounds.shape == (12, 4000) and sounds.dtype == np.float32
    assert np.abs(sounds).max() <= 1 and (np.abs(sounds).max(1) > 0.1).all()
    assert np.array_equal(draw_tones(every[[7, 2]], 4000, 8000, seed=0), sounds[[7, 2]])
    assert np.array_equal(draw_tones(every, 900, 8000, seed=0), sounds[:, :900])
    assert not np.array_equal(draw_tones(every, 4000, 8000, seed=1), sounds)
    assert len({sound.tobytes() for sound in sounds}) == 12


def test_tones_hold_notes_of_the_scale():
    """The strongest frequency of the first note of an organ is a pitch of the pentatonic scale on 110 Hz."""
    pitches = [110 * 2 ** (octave + step / 12) for octave in range(3) for step in (0, 2, 4, 7, 9)]
    for sound in draw_tones(np.array([2, 5, 8, 11]), 600, 8000, seed=3):
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(600), 1 << 16))
        peak = np.argmax(spectrum) * 8000 / (1 << 16)
        assert min(abs(peak - pitch) / pitch for pitch in pitches) < 0.03


def test_tones_as_a_data_set():
    train, validation = (load_audio("tones", split=split, **SHORT) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (900, 100) and N_SOUNDS == 1000
    assert train.shape == (1, 64) and train.class_names == CLASS_NAMES
    assert (train.sample_rate, train.encoding, train.levels, train.scale) == (8000, "mu-law", 256, None)
    pieces, labels = validation.tensors()
    assert pieces.dtype == torch.uint8 and torch.bincount(labels, minlength=3).min() > 15
    assert keys(load_audio("tones", split="all", **SHORT)) == keys(train) + keys(validation)
    assert keys(load_audio("tones", limit=5, **SHORT)) == keys(train)[:5]
    linear = load_audio("tones", encoding="linear", levels=65536, limit=5, **SHORT)
    assert linear.tensors()[0].dtype == torch.int32
    signal = levels_to_signal(linear.tensors()[0], 65536, torch.float32)
    same_sounds = mu_law_encode(signal).int() - train.tensors()[0][:5].int()
    assert same_sounds.abs().max() <= 1 and (same_sounds != 0).float().mean() < 0.05  # 16 bits move a few over an edge
    assert repr(validation) == "TensorSignals('tones', 100 signals of 1x64, 3 classes)"


def test_batches_of_signals_resume():
    data = load_audio("tones", limit=30, **SHORT)
    steps = [x for x, _ in loader(data, 4, seed=1, steps=9)]
    again = [x for x, _ in loader(data, 4, seed=1, start_step=5, steps=4)]
    assert all(torch.equal(a, b) for a, b in zip(steps[5:], again)) and len(again) == 4
    assert sum(len(x) for x, _ in sweep(data, 7)) == 30
    lazy = [data[i] for i in range(3)]
    assert torch.equal(torch.stack([piece for piece, _ in lazy]), data.tensors()[0][:3])


# recordings


@pytest.fixture
def recordings(tmp_path):
    """Five files of two classes at 8 kHz, each a constant of its own: 250 samples, 3 pieces of 64 and a rest."""
    values = {}
    for i in range(5):
        name = f"speaker{i % 2}"
        values[(name, i)] = 0.1 + 0.15 * i
        folder = tmp_path / "speech" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(folder / f"{i}.wav", torch.full((1, 250), values[(name, i)]), 8000)
    (tmp_path / "speech" / "notes.txt").write_text("not a sound")
    return tmp_path / "speech", values


def test_a_recording_is_in_one_split_only(recordings):
    folder, values = recordings
    sets = {split: load_audio(folder, split=split, **SHORT, seed=2) for split in ("train", "validation", "all")}
    assert [len(sets[split]) for split in ("train", "validation", "all")] == [12, 3, 15]
    assert sets["train"].class_names == ("speaker0", "speaker1") and sets["train"].name == "speech"
    heard = {split: {int(level) for level in data.tensors()[0].flatten()} for split, data in sets.items()}
    assert not heard["train"] & heard["validation"] and len(heard["all"]) == 5
    numbers = {int(mu_law_encode(torch.tensor(value))): key for key, value in values.items()}
    for piece, label in sets["all"]:
        assert numbers[int(piece[0, 0])][0] == f"speaker{label}"
    assert keys(load_audio(folder, limit=2, seed=2, **SHORT)) == keys(sets["train"])[:2]


def test_a_lone_file_is_split_piece_by_piece(tmp_path):
    ramp = torch.linspace(-1, 1, 1000)
    write_wav(tmp_path / "a.wav", ramp, 8000)
    options = {"length": 100, "sample_rate": 8000, "encoding": "linear", "levels": 65536}
    train, held_out = (load_audio(tmp_path / "a.wav", split=split, **options) for split in ("train", "validation"))
    assert (len(train), len(held_out), train.n_classes) == (9, 1, 0)
    pieces = torch.cat([train.tensors()[0], held_out.tensors()[0]])
    whole = torch.sort(pieces.flatten()).values
    torch.testing.assert_close(levels_to_signal(whole, 65536, torch.float32), ramp, rtol=0, atol=2e-5)
    assert (train.tensors()[1] == -1).all()
    assert len(load_audio(tmp_path, **options)) == 9


def test_split_folders(recordings, tmp_path):
    folder, _ = recordings
    root = tmp_path / "sets"
    root.mkdir()
    folder.rename(root / "train")
    for split, n in (("val", 1), ("test", 2)):
        (root / split / "speaker0").mkdir(parents=True)
        for i in range(n):
            write_wav(root / split / "speaker0" / f"{i}.wav", torch.zeros(70), 8000)
    assert [len(load_audio(root, split=split, **SHORT)) for split in ("train", "validation", "test")] == [15, 1, 2]


def test_mixing_down_and_resampling(tmp_path):
    """A stereo sine at 12 kHz becomes the mean of its channels at 8 kHz."""
    t = torch.arange(6000) / 12000
    left, right = 0.5 * torch.sin(2 * torch.pi * 200 * t), 0.3 * torch.sin(2 * torch.pi * 200 * t)
    write_wav(tmp_path / "a.wav", torch.stack([left, right]), 12000)
    pytest.importorskip("scipy")
    options = {"length": 2000, "split": "all", "encoding": "linear", "levels": 65536}
    mono = load_audio(tmp_path / "a.wav", sample_rate=8000, validation_fraction=0, **options)
    order = decode(mono.tensors()[0], "linear", 65536)
    assert order.shape == (2, 1, 2000)
    want = (0.4 * torch.sin(2 * torch.pi * 200 * torch.arange(4000) / 8000)).view(2, 2000)
    got = order[:, 0] if torch.dist(order[0, 0], want[0]) < torch.dist(order[1, 0], want[0]) else order[:, 0].flip(0)
    torch.testing.assert_close(got[0, 50:], want[0, 50:], rtol=0, atol=2e-3)  # the filter rings at the start
    stereo = load_audio(tmp_path / "a.wav", sample_rate=None, channels=None, validation_fraction=0, **options)
    assert stereo.shape == (2, 2000) and stereo.sample_rate == 12000 and len(stereo) == 3


def test_resampling_needs_scipy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError("No module named 'scipy'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    x = torch.zeros(1, 10)
    assert resample(x, 8000, 8000) is x
    with pytest.raises(ImportError, match=r"44100 Hz to 16000 Hz needs scipy.*fastgen-torch\[data\]"):
        resample(x, 44100, 16000)


# time series


@pytest.mark.parametrize("form", ["npy", "csv", "named csv"])
def test_a_series_is_scaled_and_the_scale_recorded(tmp_path, form):
    values = np.stack([np.linspace(10, 30, 90), 5 * np.sin(np.arange(90.0)), np.full(90, 7.0)], 1)
    path = tmp_path / f"a.{form[-3:]}"
    if form == "npy":
        np.save(path, values)
    else:
        np.savetxt(path, values, delimiter=",", header="a,b,c" if "named" in form else "", comments="")
    options = {"length": 9, "channels": None, "encoding": "linear", "levels": 65536, "validation_fraction": 0}
    data = load_audio(path, split="all", **options)
    assert (len(data), data.shape, data.sample_rate) == (10, (3, 9), None)
    assert data.scale[0] == pytest.approx((20.0, 10.0)) and data.scale[2] == (7.0, 1.0)
    pieces = decode(data.tensors()[0], "linear", 65536, data.scale)
    pieces = pieces[pieces[:, 0, 0].argsort()]  # the first channel rises
    torch.testing.assert_close(
        pieces.transpose(0, 1).flatten(1), torch.from_numpy(values.T).float(), rtol=0, atol=20 / 65535
    )
    wider = load_audio(path, split="all", scale=[(20, 20), (0, 5), (7, 1)], **options)
    assert wider.scale == ((20.0, 20.0), (0.0, 5.0), (7.0, 1.0))
    with pytest.raises(ValueError, match="must lie within the scale"):
        load_audio(path, scale=[(20, 5), (0, 5), (7, 1)], **options)
    with pytest.raises(ValueError, match="3 pairs"):
        load_audio(path, scale=[(20, 5)], **options)
    with pytest.raises(ValueError, match="3 columns; got channels=1; pass channels=None"):
        load_audio(path, length=9)


def test_one_column_is_one_channel(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(40, dtype=np.int16))
    (tmp_path / "a.csv").write_text("\n".join(map(str, range(40))))
    for name in ("a.npy", "a.csv"):
        data = load_audio(tmp_path / name, length=4)
        assert data.shape == (1, 4) and len(data) == 9 and data.scale == ((19.5, 19.5),)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.npy", b"\x93NUMPY garbage", "table of numbers"),
        ("a.npy", b"", "table of numbers"),
        ("a.csv", b"", "no rows"),
        ("a.csv", b"x,y\n", "no rows"),
        ("a.csv", b"1,2\n3\n", "table of numbers"),
        ("a.csv", b"1,2\n3,hello\n", "table of numbers"),
        ("a.csv", b"1\nnan\n3\n", "finite numbers"),
        ("a.csv", b"\xff\xfe\x00", "table of numbers"),
    ],
)
def test_a_broken_series_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.{name[-3:]}.*{message}"):
        load_audio(path, length=1)


@pytest.mark.parametrize("values", [np.zeros((2, 2, 2)), np.array(["a", "b"]), np.zeros(0), np.zeros(3) + 1j])
def test_a_series_of_another_shape_is_refused(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=r"finite numbers \[T\] or \[T, C\]"):
        load_audio(tmp_path / "a.npy", length=1)


# errors


def test_misuse(recordings, tmp_path):
    folder, _ = recordings
    for options, message in [
        ({"length": 0}, "length must be at least 1"),
        ({"sample_rate": 0}, "sample_rate must be at least 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"channels": 2}, "must have 2 channels; got 1"),
        ({"length": 251}, "at least 251 samples; the longest has 250"),
        ({"split": "dev"}, "load_audio: split must be one of"),
        ({"split": "test"}, "no test"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"levels": 1}, "levels must be in 2..65536"),
        ({"encoding": "mulaw"}, "did you mean mu-law"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_audio(folder, **{**SHORT, **options})
    with pytest.raises(ValueError, match="one channel"):
        load_audio("tones", channels=2, **SHORT)
    with pytest.raises(ValueError, match="did you mean tones"):
        load_audio("tone", **SHORT)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_audio(tmp_path / "nowhere", **SHORT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.wav"):
        load_audio(tmp_path / "empty", **SHORT)
    (folder / "speaker0" / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"x\.wav"):
        load_audio(folder, split="all", **SHORT)
