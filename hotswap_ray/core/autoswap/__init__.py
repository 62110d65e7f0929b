"""Promote, roll back, unload, or leave alone?"""
