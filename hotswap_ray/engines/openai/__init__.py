"""Any OpenAI-compatible server as an engine: Ollama, llama-server, vLLM, a hosted API."""

from hotswap_ray.engines.openai.engine import OpenAIEngine
from hotswap_ray.engines.openai.options import OpenAIOptions

__all__ = ["OpenAIEngine", "OpenAIOptions"]
