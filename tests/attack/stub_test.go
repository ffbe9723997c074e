package attack

var credentials, isolation, storms []Case
