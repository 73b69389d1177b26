"""Dashboards on login nodes that others share: who gets in, and to which of them.

A broker on every login node knows the users' clusters and who is logged in. nginx asks it before
each request. Schedulers on the node get a listening socket from the broker, which nobody but nginx
can reach; schedulers in jobs listen with TLS, and take nobody but nginx.
"""
