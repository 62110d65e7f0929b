"""The llama.cpp engine: GGUF models inside the replica."""

from hotswap_ray.engines.llama_cpp.engine import LlamaCppEngine
from hotswap_ray.engines.llama_cpp.options import LlamaCppOptions
from hotswap_ray.engines.llama_cpp.template import BASE_MODEL_TEMPLATE

__all__ = ["BASE_MODEL_TEMPLATE", "LlamaCppEngine", "LlamaCppOptions"]
