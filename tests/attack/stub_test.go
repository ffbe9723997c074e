package attack
var addresses, sideChannels, framing, credentials, isolation, storms []Case
