"""May this model serve this task, and is there room for it?"""
