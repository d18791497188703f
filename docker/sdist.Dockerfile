# Package image: requirements, the pristine tree of a source distribution, and its installation.
# Built without a network; the context holds wheels/, sdist, requirements.txt and install.sh.
ARG BASE
FROM ${BASE}
ARG WORKDIR
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
COPY . /srl_build/
# The requirements are a validated closure, so their Requires-Python is not asked again: some pins want a later
# patch release of 3.11 than Debian's. Login shells reset PATH, hence the file in profile.d.
RUN set -eu; \
    python3 -m venv /opt/venv; \
    echo 'export VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH' > /etc/profile.d/srl_swe.sh; \
    if [ -s /srl_build/requirements.txt ]; then \
      python -m pip install --quiet --root-user-action=ignore --no-cache-dir --no-index --no-deps --no-compile \
        --ignore-requires-python --find-links /srl_build/wheels -r /srl_build/requirements.txt; \
    fi; \
    python -m compileall -q -j 0 /opt/venv/lib > /dev/null || true; \
    mkdir -p "${WORKDIR}"; \
    tar -xf /srl_build/sdist --strip-components=1 --no-same-owner -C "${WORKDIR}"; \
    cd "${WORKDIR}"; \
    PIP_NO_INDEX=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore bash -eu /srl_build/install.sh; \
    find "${WORKDIR}" -name __pycache__ -type d -prune -exec rm -rf {} +; \
    rm -rf /srl_build /tmp/* ~/.cache
WORKDIR ${WORKDIR}
