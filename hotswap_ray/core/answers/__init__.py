"""How good is an answer?"""
