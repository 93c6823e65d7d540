"""WAV files: every width of PCM and float to the sample, whole or not at all, and every broken file named."""

import struct
import wave

import numpy as np
import pytest
import torch

from fastgen.data import read_wav, write_wav
from fastgen.likelihoods import levels_to_signal, signal_to_levels


def wav_bytes(data, bits, *, channels=1, rate=8000, kind=1, extensible=False, extra=b""):
    """A WAV file with the samples `data`."""
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE if extensible else kind, channels, rate, rate * block, block, bits)
    if extensible:
        tail = bytes.fromhex("000000001000800000aa00389b71")
        fmt += struct.pack("<HHIH", 22, bits, 0, kind) + tail
    body = b"WAVE" + extra + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pcm(values, bits):
    """Signed samples as the bytes of a file."""
    if bits == 8:
        return (np.array(values) + 128).astype(np.uint8).tobytes()
    return b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in values)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_sample_of_pcm(tmp_path, bits, extensible):
    top = 2 ** (bits - 1)
    values = [-top, -top + 1, -1, 0, 1, top - 2, top - 1, 37]
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(pcm(values, bits), bits, channels=2, rate=11025, extensible=extensible))
    signal, rate = read_wav(path)
    assert rate == 11025 and signal.dtype == torch.float32
    want = torch.tensor([(2 * v + 1) / (2**bits - 1) for v in values], dtype=torch.float64)
    torch.testing.assert_close(signal, want.view(4, 2).T.float(), rtol=0, atol=0)
    if bits <= 16:  # the grid of the likelihoods
        levels = torch.tensor(values) + top
        assert torch.equal(signal_to_levels(signal, 2**bits).T.flatten().long(), levels)
        assert torch.equal(signal.T.flatten(), levels_to_signal(levels, 2**bits, torch.float32))


@pytest.mark.parametrize("bits", [32, 64])
def test_float_samples(tmp_path, bits):
    values = np.array([0.0, -1.0, 0.25, 1.0], f"<f{bits // 8}")
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(values.tobytes(), bits, kind=3))
    assert read_wav(path)[0].tolist() == [[0.0, -1.0, 0.25, 1.0]]
    for bad in (1.5, np.nan, np.inf):
        path.write_bytes(wav_bytes(np.array([0, bad], f"<f{bits // 8}").tobytes(), bits, kind=3))
        with pytest.raises(ValueError, match=r"a\.wav.*float samples in \[-1, 1\]"):
            read_wav(path)


def test_the_standard_library_reads_what_is_written_and_the_other_way(tmp_path):
    path = tmp_path / "a.wav"
    levels = torch.randint(0, 65536, (2, 500)).int()
    levels[0, :2] = torch.tensor([0, 65535])
    write_wav(path, levels_to_signal(levels, 65536, torch.float32), 16000)
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 16000, 2)
        samples = np.frombuffer(file.readframes(500), "<i2").reshape(-1, 2).T
    assert np.array_equal(samples, levels.numpy() - 32768)
    signal, rate = read_wav(path)
    assert rate == 16000
    assert torch.equal(signal_to_levels(signal, 65536), levels)
    write_wav(path, torch.zeros(7), 8000)
    assert read_wav(path)[0].shape == (1, 7)


def test_chunks_before_the_samples_are_skipped(tmp_path):
    path = tmp_path / "a.wav"
    odd = b"LIST" + struct.pack("<I", 5) + b"hello" + b"\0"  # odd sizes are padded
    path.write_bytes(wav_bytes(pcm([5, -6], 16), 16, extra=odd))
    assert read_wav(path)[0].tolist() == [[pytest.approx(11 / 65535), pytest.approx(-11 / 65535)]]


WHOLE = wav_bytes(pcm(range(100), 16), 16)
BROKEN = {
    "empty": (b"", "RIFF file"),
    "text": (b"this is no sound at all", "RIFF file"),
    "big endian": (b"RIFX" + WHOLE[4:], "RIFF file"),
    "another RIFF": (WHOLE[:8] + b"AVI " + WHOLE[12:], "RIFF file"),
    "header cut": (WHOLE[:30], "truncated"),
    "samples cut": (WHOLE[:-1], r"199 bytes of 200.*truncated"),
    "no samples": (WHOLE[:36], "no samples.*truncated"),
    "no header": (WHOLE[:12] + WHOLE[36:], "no format.*truncated"),
    "nothing in it": (wav_bytes(b"", 16), "got 0 bytes"),
    "half a sample": (wav_bytes(b"abc", 16), "whole samples"),
    "no channels": (wav_bytes(b"abcd", 16, channels=0), "at least one channel"),
    "no rate": (wav_bytes(b"abcd", 16, rate=0), "at 0 Hz"),
    "12 bits": (wav_bytes(b"abcd", 12), "got PCM of 12 bits; convert it"),
    "mu-law": (wav_bytes(b"abcd", 8, kind=7), "got mu-law of 8 bits"),
    "ADPCM": (wav_bytes(b"abcd", 4, kind=2), "got ADPCM"),
    "unknown": (wav_bytes(b"abcd", 16, kind=77), "got format 77"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"read_wav: .*broken\.wav' must be .*" + message):
        read_wav(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "cut.wav"
    for size in range(len(WHOLE)):
        path.write_bytes(WHOLE[:size])
        with pytest.raises(ValueError, match=r"cut\.wav"):
            read_wav(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_wav(tmp_path / "nowhere.wav")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_wav(path, torch.zeros(4), 8000)
    before = path.read_bytes()

    def full_disk(self, data):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(wave.Wave_write, "writeframes", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_wav(path, torch.ones(9), 8000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_what_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(TypeError, match="decode the levels"):
        write_wav(path, torch.zeros(4, dtype=torch.uint8), 8000)
    for shape in [(0,), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"\[C, T\] or \[T\]"):
            write_wav(path, torch.zeros(shape), 8000)
    for bad in (1.2, float("nan")):
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            write_wav(path, torch.tensor([bad]), 8000)
    for where, rate in ((tmp_path / "a.mp3", 8000), (path, 0)):
        with pytest.raises(ValueError, match=r"\.wav at a positive sample rate"):
            write_wav(where, torch.zeros(4), rate)
    assert not list(tmp_path.iterdir())
