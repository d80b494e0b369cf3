# latentsync on a CPU. From the top of the repository:
#   docker build -f docker/cpu.Dockerfile -t latentsync:cpu .
#   docker run --rm -v "$PWD:/work" latentsync:cpu sync in.mp4 voice.wav -o out.mp4
FROM python:3.12-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# Libraries before the code, so that a change of the code installs none of them anew.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    "torch>=2.4,<2.14" "torchvision<0.29"
COPY . /src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /src \
    && rm -rf /src

RUN useradd --create-home --uid 1000 latentsync
USER latentsync
WORKDIR /work
ENTRYPOINT ["latentsync"]
CMD ["--help"]
