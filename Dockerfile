# The two-command recipe in an image: `docker compose up`, or
#   docker build -t stagetree . && docker run -p 8000:8000 stagetree
FROM python:3.12-slim

# A package index for torch alone; the default is the small CPU-only build.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home stagetree
USER stagetree
WORKDIR /home/stagetree/app

# What changes rarely comes first, so that editing code does not install torch again.
COPY --chown=stagetree Makefile constraints.txt ./
RUN make .venv/.torch TORCH_INDEX=${TORCH_INDEX}
COPY --chown=stagetree . .
RUN make .venv/.installed TORCH_INDEX=${TORCH_INDEX}

ENV STAGETREE_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD [".venv/bin/python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD [".venv/bin/stagetree", "serve"]
