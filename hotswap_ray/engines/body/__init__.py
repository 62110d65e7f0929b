"""What a client asks for: OpenAI bodies read once, the same for every engine that computes itself.

All of it is pure. What a body may say is checked here and refused by the field's name; what an
engine then makes of it is the engine's.
"""
