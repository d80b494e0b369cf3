# latentsync on NVIDIA cards; torch's wheels bring CUDA. From the top of the repository:
#   docker build -f docker/cuda.Dockerfile -t latentsync:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" -v latentsync:/home/latentsync/.cache latentsync:cuda \
#     sync in.mp4 voice.wav --model latentsync-1.5 -o out.mp4
FROM python:3.12-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# Libraries before the code, so that a change of the code installs none of them anew.
RUN pip install --no-cache-dir "torch>=2.4,<2.14" "torchvision<0.29"
COPY . /src
RUN pip install --no-cache-dir /src \
    && rm -rf /src

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
RUN useradd --create-home --uid 1000 latentsync \
    && install --directory --owner=latentsync /home/latentsync/.cache
USER latentsync
WORKDIR /work
ENTRYPOINT ["latentsync"]
CMD ["--help"]
