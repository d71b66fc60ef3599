"""What `edgenas.nets.proxies` works out, for those who only need the names."""

NAMES = ("naswot", "synflow", "zico", "gradnorm", "params", "macs")
