package attack

var framing, credentials, isolation, storms []Case
