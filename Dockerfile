# The image holds the binary, the certificates that it trusts, and nothing else:
# no shell, no package, nobody but uid 65532.

FROM golang:1.26 AS build
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/posthorn ./services/posthorn \
 && mkdir -p /out/data /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/posthorn /usr/local/bin/posthorn
# A new volume takes over the owner of the directory that it is mounted on.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
USER 65532:65532
ENV POSTHORN_DATA=/data
VOLUME /data
# Gateway, Master API, broker, registry, dispatcher, metrics, NATS.
EXPOSE 9600 9601 9610 9611 9620 9630 9640 9690 4222
# Drains on SIGTERM; a container runtime should wait for longer than
# shutdown-timeout (35s) before it kills.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/posthorn"]
CMD ["serve"]
