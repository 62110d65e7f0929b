"""When is a schedule due?"""
