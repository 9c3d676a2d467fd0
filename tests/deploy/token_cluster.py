"""A Ray cluster of a head and two nodes with a jobs server, in a process of its own: until its standard input ends.

Prints the jobs server's address and the cluster's.
"""

import sys

from noprop_dist.engines.ray.loopback import loopback_cluster

with loopback_cluster(2, jobs_server=True) as cluster:
    print(cluster.jobs_address, cluster.address, flush=True)
    sys.stdin.read()
