"""A suite on the hosts of a cluster: each job goes to a host, runs there as our command line, and comes back as files.

Whatever knows Ray is in `on_ray.py`. The rest is plain Python: what a job asks for (`needs.py`), where it may go
(`placement.py`), what goes with it (`luggage.py`), its process there (`errand.py`) and its way back (`journey.py`).
"""
