# The base of every image that srl_swe builds itself. Used by make-base-image where a registry answers
# and the machine cannot make the same from a Debian mirror.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git patch procps python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
