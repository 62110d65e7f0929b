"""Weights are found, made once, and refused with the path when they are bad."""

import subprocess
import sys
import threading

import gguf
import numpy as np
import pytest

from hotswap_ray.core.errors import EngineLoadFailed
from hotswap_ray.engines.weights import cache, gemma
from hotswap_ray.engines.weights import gguf as weights


@pytest.fixture
def tiny(tmp_path):
    """A GGUF file of four layers, each filled with its number."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "gemma3")
    writer.add_block_count(4)
    writer.add_array("gemma3.attention.head_count_kv", [10, 11, 12, 13])
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("token_embd.weight", np.ones((4, 32), dtype=np.float32))
    for layer in range(4):
        data = np.full((2, 32), layer, dtype=np.float32)
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", data)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", data[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}


def test_dropped_layers_are_gone_and_the_others_renumbered(tiny, tmp_path):
    made = gemma.variant(tiny, drop_layers=(1, 2), cache_dir=tmp_path / "cache")
    fields = gguf.GGUFReader(str(made)).fields
    assert fields["gemma3.block_count"].contents() == 2
    assert fields["gemma3.attention.head_count_kv"].contents() == [10, 13]
    assert fields["tokenizer.ggml.tokens"].contents() == ["a", "b", "c"]
    found = tensors(made)
    assert len(found) == 5
    assert float(found["blk.0.ffn_up.weight"].data[0][0]) == 0
    assert float(found["blk.1.ffn_up.weight"].data[0][0]) == 3


def test_requantising_touches_matrices_and_leaves_vectors(tiny, tmp_path):
    found = tensors(gemma.variant(tiny, quantization="Q8_0", cache_dir=tmp_path))
    assert found["blk.3.ffn_up.weight"].tensor_type.name == "Q8_0"
    assert found["blk.3.attn_norm.weight"].tensor_type.name == "F32"
    values = gguf.quants.dequantize(
        found["blk.3.ffn_up.weight"].data, found["blk.3.ffn_up.weight"].tensor_type
    )
    assert np.allclose(values, 3, atol=0.02)


def test_a_variant_is_written_once_and_a_changed_base_makes_another(tiny, tmp_path):
    first = gemma.variant(tiny, drop_layers=(0,), cache_dir=tmp_path)
    written = first.stat().st_mtime_ns
    assert gemma.variant(tiny, drop_layers=(0,), cache_dir=tmp_path) == first
    assert first.stat().st_mtime_ns == written
    tiny.write_bytes(tiny.read_bytes() + b"\0")
    assert gemma.variant(tiny, drop_layers=(0,), cache_dir=tmp_path) != first


def test_many_at_once_write_one_file(tmp_path):
    target = tmp_path / "cache" / "made.gguf"
    written, together = [], threading.Barrier(8)

    def write(part):
        written.append(part)
        part.write_bytes(b"GGUF")

    def ask():
        together.wait()
        cache.once(target, write)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert target.read_bytes() == b"GGUF"
    assert not list(target.parent.glob("*.part"))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    def write(part):
        part.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(EngineLoadFailed, match=r"made\.gguf.*No space left.*HOTSWAP_CACHE"):
        cache.once(tmp_path / "made.gguf", write)
    assert not list(tmp_path.glob("made.gguf*.part"))
    assert not (tmp_path / "made.gguf").exists()


@pytest.mark.parametrize("size", [20, 100, 300, 700])
def test_a_variant_of_damaged_weights_is_refused(tiny, tmp_path, size):
    tiny.write_bytes(tiny.read_bytes()[:size])
    with pytest.raises(EngineLoadFailed, match=r"damaged|cut short"):
        gemma.variant(tiny, drop_layers=(1,), cache_dir=tmp_path)


@pytest.mark.parametrize("layers", [(4,), (0, 1, 2, 3)])
def test_layers_that_are_not_there_or_all_of_them_cannot_be_dropped(tiny, tmp_path, layers):
    with pytest.raises(EngineLoadFailed, match="has 4 layers"):
        gemma.variant(tiny, drop_layers=layers, cache_dir=tmp_path)


def test_an_unknown_quantisation_is_refused_with_the_known_ones(tiny, tmp_path):
    with pytest.raises(EngineLoadFailed, match="'Q2_K'; known: BF16, Q8_0"):
        gemma.variant(tiny, quantization="Q2_K", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("wishes", "parsed"),
    [
        ("", ((), None)),
        ("drop=15", ((15,), None)),
        ("drop=3,13-15,quant=Q4_0", ((3, 13, 14, 15), "Q4_0")),
        ("quant=Q5_0,drop=0-1", ((0, 1), "Q5_0")),
    ],
)
def test_a_source_can_say_which_layers_and_which_quantisation(wishes, parsed):
    assert gemma._parse_wishes("gemma3-270m", wishes) == parsed


@pytest.mark.parametrize("wishes", ["drop=x", "drop=-1", "layers=3", "15", "drop="])
def test_a_source_that_cannot_be_read_is_refused_with_an_example(wishes):
    with pytest.raises(EngineLoadFailed, match="gemma3-270m:drop=14-15"):
        weights.resolve_source(f"gemma3-270m:{wishes}")


def test_a_path_passes_through(tiny):
    assert weights.resolve_source(str(tiny)) == tiny


def test_who_serves_a_file_loads_no_code_that_writes_weights(tiny):
    code = (
        "import sys; from hotswap_ray.engines.weights.gguf import resolve_source as resolve; "
        f"resolve({str(tiny)!r}); "
        "print([name for name in sys.modules if name.startswith('hotswap_ray.engines.weights.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['hotswap_ray.engines.weights.gguf']"


@pytest.mark.parametrize("source", [None, ""])
def test_no_source_is_refused(source):
    with pytest.raises(EngineLoadFailed, match="needs a source"):
        weights.resolve_source(source)


def test_missing_weights_are_named_with_what_to_do(tmp_path):
    path = tmp_path / "missing.gguf"
    with pytest.raises(EngineLoadFailed, match=rf"{path}: No such file.*give the path"):
        weights.resolve_source(str(path))


def test_a_file_that_is_not_gguf_is_named(tmp_path):
    path = tmp_path / "page.gguf"
    path.write_text("<html>not found</html>")
    with pytest.raises(EngineLoadFailed, match=rf"{path} is not a GGUF file"):
        weights.resolve_source(str(path))


def test_a_chat_template_is_seen_where_there_is_one(tiny, tmp_path):
    assert not weights.has_chat_template(tiny)
    with_one = tmp_path / "chat.gguf"
    writer = gguf.GGUFWriter(str(with_one), "gemma3")
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert weights.has_chat_template(with_one)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOTSWAP_CACHE", str(tmp_path))
    assert cache.default_cache_dir() == tmp_path
    monkeypatch.delenv("HOTSWAP_CACHE")
    assert cache.default_cache_dir().parts[-2:] == (".cache", "hotswap_ray")
