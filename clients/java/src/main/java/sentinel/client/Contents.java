package sentinel.client;

import com.google.protobuf.ByteString;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import sentinel.common.v1.Content;
import sentinel.common.v1.Image;

/** Makes what is searched for and what is stored: texts and images. */
public final class Contents {
  private Contents() {}

  /** A text. */
  public static Content text(String text) {
    return Content.newBuilder().setText(text).build();
  }

  /** An image: the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file. */
  public static Content image(byte[] file) {
    return image(ByteString.copyFrom(file));
  }

  /**
   * An image file.
   *
   * @throws IOException the file cannot be read
   */
  public static Content image(Path file) throws IOException {
    return image(Files.readAllBytes(file));
  }

  /** An image that the gateway fetches from a URI. */
  public static Content imageAt(String uri) {
    return Content.newBuilder().setImage(Image.newBuilder().setUri(uri)).build();
  }

  private static Content image(ByteString bytes) {
    return Content.newBuilder().setImage(Image.newBuilder().setData(bytes)).build();
  }

  /**
   * Returns the hex SHA-256 of a text or of an image's bytes. It is the id that a gateway gives to
   * an item that has none, so equal images are one item.
   *
   * @throws IllegalArgumentException it has no bytes; only the gateway reads those at a URI
   */
  public static String id(Content content) {
    ByteString bytes = bytes(content);
    if (bytes.isEmpty()) {
      throw new IllegalArgumentException(
          "the content has no text and no bytes of an image: choose an id for the item");
    }
    try {
      MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
      bytes.asReadOnlyByteBufferList().forEach(sha256::update);
      return HexFormat.of().formatHex(sha256.digest());
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError(impossible); // each Java platform must have it
    }
  }

  /** Returns the bytes of a text or of an image; none if only the gateway knows them. */
  static ByteString bytes(Content content) {
    return content.hasImage() ? content.getImage().getData() : content.getTextBytes();
  }
}
