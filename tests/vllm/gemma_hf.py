"""Gemma 3 270M as a Hugging Face folder, which is what vLLM loads, without a model hub.

The registry has these weights only as GGUF (``gemma_270m``); ``transformers`` reads that, and
this writes it as config, tokenizer and safetensors, once. By hand, in the root of a checkout::

    python -m tests.vllm.gemma_hf        # prints the folder
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from filelock import FileLock

from hotswap_ray.core.errors import EngineLoadFailed
from hotswap_ray.engines.llama_cpp import BASE_MODEL_TEMPLATE
from hotswap_ray.engines.weights.cache import default_cache_dir
from hotswap_ray.engines.weights.gemma import gemma_270m


def gemma_270m_hf(cache_dir: Path | None = None) -> Path:
    """Write Gemma 3 270M (a base model) as a Hugging Face folder, unless it is there already.

    The weights are dequantised from Q4_K_M to bfloat16: 570 MB on disk. Writing takes about
    a minute and 3.5 GB of memory.

    Args:
        cache_dir: Where the folder is kept; default ``default_cache_dir()``.

    Returns:
        The folder, to be used as ``ModelSpec.source``.

    Raises:
        EngineLoadFailed: A package that is needed is missing, or the disk refused.
    """
    root = cache_dir or default_cache_dir()
    folder = root / "gemma-3-270m-hf"
    if folder.exists():
        return folder
    try:
        source = gemma_270m(root)
        with (
            FileLock(root / f"{folder.name}.lock"),
            tempfile.TemporaryDirectory(dir=root, prefix=f".{folder.name}-") as work,
        ):
            if not folder.exists():
                made = Path(work) / folder.name
                _convert(source, made)
                # A rename is atomic: a reader sees the whole folder or none.
                made.rename(folder)
    except ImportError as error:
        raise EngineLoadFailed(
            f"cannot convert the weights: {error}; install transformers, accelerate and gguf"
        ) from error
    except OSError as error:
        raise EngineLoadFailed(f"cannot write the weights {folder}: {error}") from error
    return folder


def _convert(source: Path, folder: Path) -> None:
    torch, transformers = import_module("torch"), import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The same prompt as with llama.cpp, so that the two engines can stand in for each other.
    tokenizer.chat_template = "{{ bos_token }}" + BASE_MODEL_TEMPLATE
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16
    )
    # `model.save_pretrained` refuses a model read from GGUF, though its weights are plain now.
    model.config.architectures = [type(model).__name__]
    del model.config.quantization_config
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    # `lm_head` is the embedding again (tied); safetensors would store it twice.
    weights = {
        name: value for name, value in model.state_dict().items() if name != "lm_head.weight"
    }
    path = folder / "model.safetensors"
    import_module("safetensors.torch").save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


if __name__ == "__main__":
    sys.stdout.write(f"{gemma_270m_hf()}\n")
