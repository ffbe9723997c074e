# ruby echo.rb PORT: what Rack makes of a request, behind WEBrick.
require 'json'
require 'rack'
require 'rack/handler/webrick'

def latin(s) = s.to_s.dup.force_encoding('ISO-8859-1').encode('UTF-8')

def leaves(v)
  case v
  when Hash then v.values.flat_map { |x| leaves(x) }
  when Array then v.flat_map { |x| leaves(x) }
  else [latin(v)]
  end
end

app = lambda do |env|
  query = Rack::Request.new(env).GET.to_h { |k, v| [latin(k), leaves(v)] }
  [200, { 'Content-Type' => 'application/json' }, [JSON.generate(path: latin(env['PATH_INFO']), query: query)]]
rescue StandardError => e
  [400, {}, [e.class.to_s]]
end
Rack::Handler::WEBrick.run(app, Host: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
