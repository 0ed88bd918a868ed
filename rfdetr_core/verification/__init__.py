"""Whether dvc.lock, lineage and history are true to what is at hand, shown by computing it again; and attestations."""
