import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.concurrent.Callable;

/** Java's HTTP client: one JSON object per case on stdout. */
class Libraries {
    static String quoted(String s) {
        return "\"" + s.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }

    static void report(String client, String name, Callable<String> call) {
        String text;
        try {
            text = call.call();
        } catch (Exception e) {
            text = e.toString();
        }
        System.out.println("{\"client\":" + quoted(client) + ",\"case\":" + quoted(name) + ",\"text\":" + quoted(text) + "}");
    }

    public static void main(String[] args) {
        // By default it knows nothing of proxy variables.
        HttpClient direct = HttpClient.newHttpClient();
        URI proxy = URI.create(System.getenv("HTTPS_PROXY"));
        HttpClient proxied = HttpClient.newBuilder().proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort()))).build();
        String[][] cases = {
            {"java", "allowed", "https://api.test/v1/echo/java"}, {"java", "path", "https://api.test/v2/java"}, {"java", "host", "https://denied.test/java"},
            {"java", "gateway", "http://localhost:8080/v1/echo/java"}, {"java", "gateway-path", "http://localhost:8080/v2/java"},
            {"java-proxy", "allowed", "https://api.test/v1/echo/java-proxy"}, {"java-proxy", "path", "https://api.test/v2/java-proxy"},
            {"java-proxy", "host", "https://denied.test/java-proxy"},
        };
        for (String[] c : cases) {
            HttpClient http = c[0].equals("java") ? direct : proxied;
            report(c[0], c[1], () -> {
                HttpRequest request = HttpRequest.newBuilder(URI.create(c[2])).header("x-api-key", "postern").build();
                HttpResponse<String> r = http.send(request, HttpResponse.BodyHandlers.ofString());
                return r.statusCode() + " " + r.body();
            });
        }
    }
}
