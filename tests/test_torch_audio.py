import csv
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torchaudio
from conftest import tone, wav
from rawdata import WAV, read, reasons, write_commands

from winnow.data.sources.torch_audio import Torchaudio
from winnow.data.stage import BadInput


def commands(root: Path) -> Path:
    return root / "SpeechCommands" / "speech_commands_v0.02"


def test_files_come_as_they_are_with_word_speaker_and_split(tmp_path: Path):
    records = read(Torchaudio("SPEECHCOMMANDS"), write_commands(tmp_path), WAV)
    assert [(r.source.rpartition("v0.02/")[2], r.label, r.group, r.split) for r in records] == [
        ("no/0a_nohash_0.wav", "no", "0a", "train"),
        ("no/0b_nohash_0.wav", "no", "0b", "train"),
        ("yes/0a_nohash_0.wav", "yes", "0a", "train"),
        ("yes/0b_nohash_0.wav", "yes", "0b", "train"),
        ("yes/0c_nohash_0.wav", "yes", "0c", "validation"),
        ("no/0c_nohash_0.wav", "no", "0c", "validation"),
        ("yes/0d_nohash_0.wav", "yes", "0d", "test"),
        ("no/0d_nohash_0.wav", "no", "0d", "test"),
    ]
    assert [r.raw for r in records] == [(tmp_path / r.source).read_bytes() for r in records]


def test_torchaudio_loads_as_before_afterwards(tmp_path: Path):
    before = torchaudio.load
    records = Torchaudio("SPEECHCOMMANDS").records(write_commands(tmp_path), WAV)
    next(records)
    assert torchaudio.load is before
    list(records)
    assert torchaudio.load is before


def test_recordings_that_are_broken_missing_or_of_another_rate_are_rejects(tmp_path: Path):
    folder = commands(write_commands(tmp_path))
    whole = (folder / "no/0a_nohash_0.wav").read_bytes()
    (folder / "no/0a_nohash_0.wav").write_bytes(b"no sound")
    (folder / "yes/0a_nohash_0.wav").write_bytes(whole[:-500])
    (folder / "no/0b_nohash_0.wav").write_bytes(wav(tone(200, 0.4, 8000), 8000))
    (folder / "yes/0c_nohash_0.wav").unlink()
    (folder / "yes/speaker.wav").write_bytes(whole)  # the class leaves it out
    records = read(Torchaudio("SPEECHCOMMANDS"), tmp_path, WAV)
    assert len(records) == 8
    found = {source.rpartition("v0.02/")[2]: reason for source, reason in reasons(records).items()}
    assert set(found) == {f"{name}_nohash_0.wav" for name in ("no/0a", "no/0b", "yes/0c")}
    assert "'0a_nohash_0.wav'" in found["no/0a_nohash_0.wav"]
    assert "sample rate should be 16000, but got 8000" in found["no/0b_nohash_0.wav"]
    # A truncated one is whole as a file: decoding, not the source, notices.
    assert next(r for r in records if "yes/0a" in r.source).raw == whole[:-500]


def test_a_line_of_a_list_that_is_no_recording_is_a_reject(tmp_path: Path):
    folder = commands(write_commands(tmp_path))
    (folder / "testing_list.txt").write_text(
        "yes/0d_nohash_0.wav\n\nyes/nobody.wav\n../../../x/1_nohash_1.wav\n"
    )
    (tmp_path / "x").mkdir()
    records = read(Torchaudio("SPEECHCOMMANDS"), tmp_path, WAV)
    tested = [r for r in records if r.split == "test"]
    assert len(tested) == 4 and sum(r.reason is None for r in tested) == 1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path):
    root = write_commands(tmp_path / "raw")
    (tmp_path / "secret.wav").write_bytes(wav(tone(200, 0.4, 16000), 16000))
    (commands(root) / "no/0e_nohash_0.wav").symlink_to(tmp_path / "secret.wav")
    ((source, reason),) = reasons(read(Torchaudio("SPEECHCOMMANDS"), root, WAV)).items()
    assert source.endswith("no/0e_nohash_0.wav") and "leaves the folder" in reason


def test_a_class_that_needs_torchcodec_elsewhere_is_read_without_it(tmp_path: Path):
    folder = tmp_path / "waves_yesno"
    folder.mkdir()
    for name in ("0_1_0", "1_1_0"):
        (folder / f"{name}.wav").write_bytes(wav(tone(200, 0.3)))
    records = read(Torchaudio("YESNO"), tmp_path, WAV)
    assert [(r.source, r.label, r.group, r.split) for r in records] == [
        ("waves_yesno/0_1_0.wav", None, None, None),
        ("waves_yesno/1_1_0.wav", None, None, None),
    ]


def test_a_key_of_a_dictionary_may_be_label_or_group(tmp_path: Path):
    (tmp_path / "clips").mkdir()
    for split, clip in (("train", "a"), ("dev", "b"), ("test", "c")):
        soundfile.write(tmp_path / "clips" / f"{clip}.mp3", tone(200, 0.5, 16000), 16000, format="MP3")
        with (tmp_path / f"{split}.tsv").open("w", newline="") as file:
            rows = [("client_id", "path", "sentence", "accent"), (f"who {clip}", f"{clip}.mp3", "hi", "us")]
            csv.writer(file, delimiter="\t").writerows(rows)
    records = read(Torchaudio("COMMONVOICE", label="accent"), tmp_path, frozenset({".mp3"}))
    assert [(r.source, r.label, r.group, r.split) for r in records] == [
        ("clips/a.mp3", "us", "who a", "train"),
        ("clips/b.mp3", "us", "who b", "validation"),
        ("clips/c.mp3", "us", "who c", "test"),
    ]
    assert [r.target for r in records] == ["hi", "hi", "hi"]
    with pytest.raises(BadInput, match="the key, 'colour'"):
        read(Torchaudio("COMMONVOICE", label="colour"), tmp_path, frozenset({".mp3"}))


def test_books_that_are_read_aloud_have_speakers_and_transcripts(tmp_path: Path):
    folder = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121"
    folder.mkdir(parents=True)
    lines = ["84-121-0000 GO ON", "84-121-0001 AND SO IT WENT"]
    (folder / "84-121.trans.txt").write_text("\n".join(lines) + "\n")
    for line in lines:
        soundfile.write(folder / f"{line.split()[0]}.flac", tone(200, 0.5, 16000), 16000)
    source = Torchaudio("LIBRISPEECH", splits={"train": {"url": "dev-clean"}})
    records = read(source, tmp_path, frozenset({".flac"}))
    assert [(r.source.rpartition("/")[2], r.group, r.target, r.label) for r in records] == [
        ("84-121-0000.flac", "84", "GO ON", None),
        ("84-121-0001.flac", "84", "AND SO IT WENT", None),
    ]


def test_talks_are_cut_into_their_utterances(tmp_path: Path):
    folder = tmp_path / "TEDLIUM_release1" / "train"
    for name in ("sph", "stm"):
        (folder / name).mkdir(parents=True)
    samples = tone(200, 2.0, 16000)
    soundfile.write(folder / "sph" / "talk.sph", samples, 16000, format="NIST", subtype="PCM_16")
    (folder / "stm" / "talk.stm").write_text(
        "talk 1 ann 0.25 0.75 <o,f0,female> hello there\ntalk 1 ann 1.0 1.5 <o,f0,female> and so on\n"
    )
    records = read(Torchaudio("TEDLIUM", splits={"train": {"subset": "train"}}), tmp_path, WAV)
    assert [(r.source, r.group) for r in records] == [("TEDLIUM/train#0", "ann"), ("TEDLIUM/train#1", "ann")]
    assert [r.target for r in records] == ["hello there", "and so on"]
    heard, rate = soundfile.read(io.BytesIO(records[0].raw or b""))
    assert rate == 16000 and np.allclose(heard, samples[4000:12000], atol=1e-4)


def test_a_dataset_without_recordings_is_all_rejects(tmp_path: Path):
    (tmp_path / "cmudict-0.7b").write_text("A  AH\nBE  B IY\n")
    (tmp_path / "cmudict-0.7b.symbols").write_text("AH\nB\nIY\n")
    records = read(Torchaudio("CMUDict"), tmp_path, WAV)
    assert len(records) == 2
    assert set(reasons(records).values()) == {"the dataset class loads no recording for it"}


def test_data_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(BadInput, match=r"SPEECHCOMMANDS cannot read .*doesn't exist.*'download: true'"):
        read(Torchaudio("SPEECHCOMMANDS"), tmp_path, WAV)
    (commands(tmp_path)).mkdir(parents=True)
    with pytest.raises(BadInput, match="finds nothing in"):
        read(Torchaudio("SPEECHCOMMANDS", splits={"train": {}}), tmp_path, WAV)
