"""A GitOps control plane for fleets of containerised AI agents. The map is `README.md` beside this file."""

__version__ = "0.1.0"
