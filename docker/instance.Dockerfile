# Instance image: the package image with the bug patch applied and the hidden paths removed, as one root commit.
# The context holds bug.patch and hidden (paths, each ended by NUL).
ARG BASE
FROM ${BASE}
ARG WORKDIR
COPY . /srl_build/
# `add -f` takes in what the package's own .gitignore names, as the source distribution ships it; the patterns keep
# what an installation or a test run leaves behind out of the commit, and info/exclude out of every later patch.
RUN set -eu; \
    cd "${WORKDIR}"; \
    rm -rf .git; \
    git init --quiet --initial-branch=main .; \
    printf '%s\n' __pycache__/ '*.pyc' '*.egg-info/' .pytest_cache/ > .git/info/exclude; \
    git config user.name srl-swe; \
    git config user.email srl-swe@localhost; \
    git config gc.auto 0; \
    git config --system --replace-all safe.directory '*'; \
    git apply --whitespace=nowarn /srl_build/bug.patch; \
    xargs -0 -r rm -rf -- < /srl_build/hidden; \
    git add -A -f -- . ':(exclude,glob)**/__pycache__/**' ':(exclude,glob)**/*.pyc' \
      ':(exclude,glob)**/*.egg-info/**' ':(exclude,glob)**/.pytest_cache/**'; \
    GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z' \
      git commit --quiet --no-verify -m base; \
    rm -rf /srl_build .git/logs .git/hooks
