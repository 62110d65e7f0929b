"""HTTP: the OpenAI data plane and the admin control plane."""
