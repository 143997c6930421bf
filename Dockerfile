# The search service: docker build -t macl . && docker run --rm -p 127.0.0.1:8080:8080 --user "$(id -u)" -v "$PWD/served:/served" macl
# docs/deploy.md says more.
FROM python:3.11-slim
# What rasterio's wheel leaves to the system.
RUN apt-get update && apt-get install -y --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md ./
COPY macl_tf macl_tf
COPY configs configs
COPY export export
RUN pip install --no-cache-dir ".[cpu,serve,milvus]"
WORKDIR /
# Whoever runs it need not have a home here.
ENV XDG_CACHE_HOME=/tmp/cache
EXPOSE 8080
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/readyz', timeout=5)"]
ENTRYPOINT ["macl"]
CMD ["serve", "/served", "--host", "0.0.0.0"]
