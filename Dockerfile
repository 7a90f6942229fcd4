# The two-command recipe in an image: `docker compose up`, or
#   docker build -t stagetree . && docker run -p 127.0.0.1:8000:8000 stagetree
FROM python:3.12-slim

# A package index for torch alone, such as one that has small CPU-only builds.
ARG TORCH_INDEX=

# The compiler makes passes several times as fast, in the background; without one they stay eager.
# The folders of downloads and of compiled passes are made here, so that volumes on them belong to
# the user.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home stagetree \
    && install -d -o stagetree -g stagetree /app \
        /home/stagetree/.cache/huggingface /home/stagetree/.cache/stagetree
USER stagetree
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1

# What changes rarely comes first, so that editing code does not install torch again.
COPY --chown=stagetree Makefile constraints.txt ./
RUN make .venv/.torch TORCH_INDEX="${TORCH_INDEX}"
COPY --chown=stagetree . .
RUN make .venv/.installed TORCH_INDEX="${TORCH_INDEX}"

# All interfaces of the container; what is published outside it is the host's choice.
ENV STAGETREE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD [".venv/bin/python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD [".venv/bin/stagetree", "serve", "--port", "8000"]
