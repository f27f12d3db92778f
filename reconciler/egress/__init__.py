"""The egress process: how what runs in a sandbox reaches the outside. Its first part relays requests to models.

What belongs here: everything between an instance's own socket and a provider's, and what is known of each request. What
doesn't: choosing a route (`core/routing.py`, when planning), and anything that imports pydantic, SQLModel or docker.
"""
