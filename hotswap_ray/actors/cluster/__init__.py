"""Adapters to Ray: the fleet of applications, connections to models, handles to actors."""
