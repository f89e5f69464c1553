#!/bin/sh
# Makes the stand-in of the images that compose.yaml takes from a registry: run once, inside of it, by scripts/test-image.
set -eu
# The packages start nothing.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm prometheus rabbitmq-server wget
install -d -o nobody -g nogroup /prometheus
