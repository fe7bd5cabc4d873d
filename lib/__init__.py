"""Plumbing: settings, files, processes, logs. Skip it at a first reading."""
