"""What ``flask livepush doctor`` looks at, and what it says of it.

Two examinations, each a sequence of :class:`~.findings.Finding`: of an application's
settings and surroundings (:mod:`.application`, :mod:`.gunicorn_settings`,
:mod:`.queue`), and of the way to a running one through whatever is in front of it
(:mod:`.front`, with steps of :mod:`.polling`, :mod:`.websockets` and
:mod:`.patience`). Nothing in here prints, and no password, key or cookie may be in a
finding.
"""
