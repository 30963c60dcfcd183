package sentinel.client;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** A connection to a gateway that a test can cut, as a network would. */
final class Link implements AutoCloseable {
  private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
  private final List<Socket> sockets = new CopyOnWriteArrayList<>();
  private final String host;
  private final int port;
  private int cuts;

  Link(String gateway) throws IOException {
    host = gateway.substring(0, gateway.lastIndexOf(':'));
    port = Integer.parseInt(gateway.substring(gateway.lastIndexOf(':') + 1));
    run(this::accept);
  }

  String address() {
    return "127.0.0.1:" + listener.getLocalPort();
  }

  /** Cuts all connections, if it is time, and the first time only. New ones work. */
  void cutOnce(boolean isTime) {
    if (isTime && cuts == 0) {
      cuts++;
      sockets.forEach(Link::closeQuietly);
    }
  }

  int cuts() {
    return cuts;
  }

  private void accept() throws IOException {
    while (true) {
      Socket client = listener.accept();
      Socket gateway = new Socket(host, port);
      sockets.addAll(List.of(client, gateway));
      run(() -> copy(client, gateway));
      run(() -> copy(gateway, client));
    }
  }

  private static void copy(Socket from, Socket to) throws IOException {
    try (from;
        to) {
      from.getInputStream().transferTo(to.getOutputStream());
    }
  }

  private interface Work {
    void run() throws IOException;
  }

  private static void run(Work work) {
    Thread thread =
        new Thread(
            () -> {
              try {
                work.run();
              } catch (IOException closed) {
                // the end of a connection, or of the test
              }
            });
    thread.setDaemon(true);
    thread.start();
  }

  private static void closeQuietly(Socket socket) {
    try {
      socket.close();
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  @Override
  public void close() throws IOException {
    listener.close();
    sockets.forEach(Link::closeQuietly);
  }
}
