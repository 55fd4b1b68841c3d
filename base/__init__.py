"""The ground floor: what every room may use, and what imports no other room.

`errors`, `arrays` (array types), `ragged` (lists of item rows), `topk` (exact ranking), `files` (durable writes and
hashes), `registry` (things that a configuration names), `settings` (the base of configuration classes), `package`
(name, version, install hints) and `machine`. Each is imported by itself, so that light things stay light.
"""
