(find / /opt/dask-site /home -xdev -not -path '/proc*' -not -path '/sys*' -not -path '/dev*' -not -path '/tmp*' -not -path '/var/tmp*' \
  -not -path '/var/log*' -not -path '/var/lib/slurm*' -not -path '/var/lib/mysql*' -not -path '/root*' -not -path '/run*' \
  -not -path '/home/alice*' -not -path '/home/bob*' -not -path '/home/carol*' -printf '%p %y %m %u %g %l\n'; ls -d /run/dask* 2>/dev/null; getent passwd; getent group; systemctl list-unit-files --no-legend 'dask*') | sort -u
